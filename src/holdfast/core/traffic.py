"""What people declare about the traffic of a service: its A/B tests and what its prediction log keeps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from holdfast.core.errors import BadDefinition
from holdfast.core.identity import duration_us

Duration = str | int | timedelta
OUTCOMES = ("label", "accuracy", "squared_error", "absolute_error")


@dataclass(frozen=True, eq=False)
class ABTest:
    """How a challenger is compared with the champion in a test that may be looked at any time.

    ``metric`` is the mean over answered rows whose truth is known: of the truth itself (``label``: a conversion, an
    amount), of ``accuracy`` (output equals truth), ``squared_error`` or ``absolute_error`` of the score. Keys are what
    is assigned and what is counted. ``effect`` is the least difference that matters, ``baseline`` the champion's mean
    (measured from the log where it is None). ``guardrails`` name other metrics and how much worse they may get; the
    error rate and the latency are always guarded. No good news before ``at_least``; undecided after ``at_most``.
    ``on_better``: promote the challenger, or stop and leave it to a person.
    """

    metric: str
    effect: float
    baseline: float | None = None
    weight: float = 50.0
    alpha: float = 0.05
    power: float = 0.8
    greater_is_better: bool | None = None
    guardrails: Mapping[str, float] = field(default_factory=dict)
    max_error_rate: float = 0.01
    max_latency_ratio: float = 2.0
    every: Duration = "10m"
    at_least: Duration = "0s"
    at_most: Duration = "60d"
    on_better: Literal["promote", "stop"] = "promote"

    def __post_init__(self) -> None:
        for name in (self.metric, *self.guardrails):
            if name not in OUTCOMES:
                raise BadDefinition(f"an A/B test cannot measure {name!r}", hint=f"use one of: {', '.join(OUTCOMES)}")
        for name in ("every", "at_least", "at_most"):
            object.__setattr__(self, name, duration_us(getattr(self, name)))
        if self.greater_is_better is None:
            object.__setattr__(self, "greater_is_better", self.metric in ("label", "accuracy"))
        if not self.effect > 0 or any(not v > 0 for v in self.guardrails.values()):
            raise BadDefinition("the effect and the guardrails of an A/B test are above 0")
        if not 0 < self.weight < 100:
            raise BadDefinition(
                f"an A/B test at {self.weight:g} % compares nothing", hint="use a weight within (0, 100)"
            )
        if not 0 < self.alpha < 1 or not 0 < self.power < 1:
            raise BadDefinition("alpha and power of an A/B test lie between 0 and 1")
        if self.on_better not in ("promote", "stop"):
            raise BadDefinition(f"on_better is {self.on_better!r}", hint="use promote or stop")

    def spec(self) -> dict[str, Any]:
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in vars(self).items()}


@dataclass(frozen=True, eq=False)
class PredictionLog:
    """What a service's prediction log keeps. ``mode``: answered after the group's fsync (durable) or before (buffered).

    ``sample`` is the share of predictions kept, chosen by their id. ``redact`` says, by input or feature name, what is
    written instead of the value: nothing (``drop``), a keyed hash of it (``hash``: equal values stay equal), or its last
    four characters (``mask``; numbers are dropped). ``key`` = hash keeps the routing key out of the log as well; it is
    hashed anyway where a field that makes it is redacted.
    """

    mode: Literal["durable", "buffered"] = "buffered"
    sample: float = 1.0
    redact: Mapping[str, Literal["drop", "hash", "mask"]] = field(default_factory=dict)
    key: Literal["keep", "hash"] = "keep"

    def __post_init__(self) -> None:
        if self.mode not in ("durable", "buffered"):
            raise BadDefinition(f"the prediction log's mode is {self.mode!r}", hint="use durable or buffered")
        if not 0 < self.sample <= 1:
            raise BadDefinition(
                f"sample {self.sample} keeps nothing or more than all", hint="use a share within (0, 1]"
            )
        for name, how in self.redact.items():
            if how not in ("drop", "hash", "mask"):
                raise BadDefinition(f"{name!r} cannot be redacted by {how!r}", hint="use drop, hash or mask")
        if self.key not in ("keep", "hash"):
            raise BadDefinition(f"key is {self.key!r}", hint="use keep or hash")

    @property
    def policy(self) -> dict[str, Any]:
        """What a release tells its replicas; empty where everything is kept as it is."""
        told: dict[str, Any] = {"sample": self.sample, "redact": dict(self.redact), "key": self.key}
        return told if told != {"sample": 1.0, "redact": {}, "key": "keep"} else {}

    def spec(self) -> dict[str, Any]:
        return {"mode": self.mode, **self.policy}


_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size_bytes(text: str | int) -> int:
    """``512M``, ``1.5G`` as bytes.

    Raises:
        BadDefinition: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?\s*", str(text), flags=re.IGNORECASE)
    if not found or not float(found[1]):
        raise BadDefinition(f"{text!r} is no size", hint="write it like 512M or 2G")
    return int(float(found[1]) * _SIZES[found[2].upper()])
