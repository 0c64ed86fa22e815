"""What of a row goes to the prediction log: which rows (a sample by id), which fields, and in which form.

The policy comes with the release (``Release.log``), so replicas without the project's code keep to it. A name in it that
no arm knows closes the log: a misspelt field would otherwise be written in clear.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import blake2b, sha256
from typing import Any

from holdfast.core.records import Json

_SCALE = 1.0 / 2**64
_SHOWN = 4


class Keeping:
    """The policy of one arm's rows.

    Args:
        policy: ``sample``, ``redact`` (name → drop, hash, mask), ``key`` (keep, hash), as ``PredictionLog.policy`` has it.
        inputs: (name, dtype) of the request's fields in order; features: names of the matrix's columns in order.
        keys: the request fields that make the routing key.
        known: every name that any arm of the release knows.
        secret: the key of the hashes; equal values are equal in the logs of one store only.
    """

    def __init__(
        self,
        policy: Json,
        *,
        inputs: Sequence[tuple[str, str]],
        features: Sequence[str],
        keys: Sequence[str],
        known: set[str],
        secret: bytes,
    ) -> None:
        how: dict[str, str] = dict(policy.get("redact", {}))
        self.unknown = sorted(set(how) - known)
        self.sample = float(policy.get("sample", 1.0))
        self.hides_key = policy.get("key") == "hash" or any(k in how for k in keys)
        self.redacts = any(n in how for n, _ in inputs) or any(n in how for n in features)
        self._secret = secret
        kept = [(i, n, t, how.get(n)) for i, (n, t) in enumerate(inputs) if how.get(n) != "drop"]
        self.inputs = [(n, t if h is None else "string") for _, n, t, h in kept]
        self._columns = [(i, h) for i, _, _, h in kept]
        self._features = [i for i, n in enumerate(features) if n not in how]
        self.features = [features[i] for i in self._features]
        self._whole = len(self.features) == len(features)

    def chosen(self, ids: Sequence[str]) -> list[int] | None:
        """The positions of the rows in the sample; None = all of them. The same id is always in it, or never."""
        if self.sample >= 1.0:
            return None
        return [i for i, name in enumerate(ids) if _point(name) < self.sample]

    def rows(self, rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """Request values as they are written."""
        return [
            tuple(row[i] if how is None else self.hashed(row[i]) if how == "hash" else _masked(row[i]) for i, how in self._columns)
            for row in rows
        ]  # fmt: skip

    def matrix(self, matrix: Any) -> Any:
        """(n, d) features without the redacted columns."""
        return matrix if self._whole else matrix[:, self._features]

    def keys(self, keys: Sequence[str]) -> list[str]:
        """Routing keys as they are written."""
        return [str(self.hashed(k)) for k in keys] if self.hides_key else list(keys)

    def hashed(self, value: Any) -> str | None:
        """HMAC-SHA256 of the value's text, 32 hex; null stays null."""
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return hmac.new(self._secret, str(value).encode("utf-8", "surrogatepass"), sha256).hexdigest()[:32]


def _masked(value: Any) -> str | None:
    """The last four characters of a text of more than eight; nothing of anything else."""
    if not isinstance(value, str):
        return None
    return "***" + (value[-_SHOWN:] if len(value) > 2 * _SHOWN else "")


def _point(name: str) -> float:
    return int.from_bytes(blake2b(name.encode(), digest_size=8, person=b"log-sample").digest(), "big") * _SCALE
