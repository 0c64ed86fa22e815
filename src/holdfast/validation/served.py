"""What a real server of this version answers: single-row requests over one kept connection, timed at the caller.

Asking is here; starting the server is ``lifecycle``'s. The checks of latency, determinism and robustness read the result.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from holdfast.core.records import Json

CALLS = 1000
WARM = 20
AGAIN = 50
BUDGET = 30.0
"""Seconds after which calling stops; what was answered so far counts."""
TIMEOUT = 10.0

Score = float | list[float] | None


@dataclass(frozen=True)
class Served:
    """Answers of a server.

    Args:
        seconds: (n,) per single-row request, connection kept.
        scores: of each request, None where it was refused; ``again`` and ``reordered`` are the first ``AGAIN`` of them
            asked once more, and asked with their fields in the opposite order.
        ids: the prediction ids of ``scores``.
        problems: what was refused, at most ten.
        refused: how many were.
        inputs: (n, d) the model's inputs as the server had them, NaN for null; None where they could not be read back.
    """

    seconds: Any
    scores: list[Score]
    again: list[Score] = field(default_factory=list)
    reordered: list[Score] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    refused: int = 0
    inputs: Any = None


def ask(url: str, requests: Sequence[Json], times: Sequence[int] | None = None, *, calls: int = CALLS) -> Served:
    """Ask the server at ``url`` (``http://host:port``) for each request in turn, round and round for ``calls`` calls.

    Args:
        requests: rows as a caller sends them; times: the instant (µs) of each, for a server in replay mode.
    """
    problems: list[str] = []
    refused = 0
    scores: list[Score] = []
    ids: list[str] = []
    with _Line(url) as line:

        def one(i: int, *, turned: bool = False) -> tuple[float, Score, str]:
            nonlocal refused
            row = requests[i % len(requests)]
            body: Json = {"rows": [dict(reversed(list(row.items()))) if turned else row]}
            if times is not None:
                body["request_time"] = int(times[i % len(requests)])
            spent, problem, answer = line.post("/predict", json.dumps(body).encode())
            if problem:
                refused += 1
                if len(problems) < 10:
                    problems.append(problem)
                return spent, None, ""
            return spent, answer.get("score"), str(answer.get("id", ""))

        if not requests:
            return Served(seconds=np.empty(0), scores=[])
        for i in range(min(WARM, len(requests))):
            one(i)
        refused = 0
        problems.clear()
        end = time.perf_counter() + BUDGET
        seconds = []
        for i in range(calls):
            spent, score, name = one(i)
            seconds.append(spent)
            scores.append(score)
            ids.append(name)
            if time.perf_counter() > end:
                break
        few = min(AGAIN, len(requests), len(scores))
        again = [one(i)[1] for i in range(few)]
        reordered = [one(i, turned=True)[1] for i in range(few)]
    return Served(
        seconds=np.array(seconds), scores=scores, again=again, reordered=reordered, ids=ids, problems=problems,
        refused=refused,
    )  # fmt: skip


class _Line:
    """One kept connection to the server, opened again where the server closed it."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self.connection = http.client.HTTPConnection(place.hostname or "127.0.0.1", place.port or 80, timeout=TIMEOUT)

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def post(self, path: str, body: bytes) -> tuple[float, str, Mapping[str, Any]]:
        """(seconds, what went wrong or "", the first prediction)."""
        start = time.perf_counter()
        try:
            self.connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = self.connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            return time.perf_counter() - start, f"no answer: {type(error).__name__}: {error}", {}
        spent = time.perf_counter() - start
        try:
            answer = json.loads(data)
        except ValueError:
            return spent, f"HTTP {response.status} without JSON", {}
        if response.status != 200:
            return spent, f"HTTP {response.status}: {str(answer)[:200]}", {}
        predictions = answer.get("predictions") if isinstance(answer, dict) else None
        if not predictions:
            return spent, "an answer without predictions", {}
        return spent, "", predictions[0]
