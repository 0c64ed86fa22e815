"""Distinct counts, exact and approximate, over a large and a small block of one entity."""

from __future__ import annotations

import random
from typing import Any

import pytest

from holdfast.features import blocks


def value(kind: str, rng: random.Random) -> Any:
    if rng.random() < 0.1:
        return None
    k = rng.randrange(40)
    match kind:
        case "wide integers":
            return rng.choice([k, k * 2**57 - 2**62])
        case "floats":
            return rng.choice([k / 2, -0.0, 0.0, float("inf")])
        case "text":
            return rng.choice(["", "é", "a\x00", "z"]) + str(k % 13)
        case _:  # 5 and 5.0 are one value
            return rng.choice([k, float(k), k + 0.5])


@pytest.mark.parametrize("kind", ["wide integers", "floats", "text", "both kinds of number"])
def test_it_is_the_size_of_the_set_whichever_blocks_the_events_lie_in(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(150):
        n = rng.randint(2, 300)
        events = [(t := rng.randrange(1000), t, 0, i, (value(kind, rng),)) for i in range(n)]
        split, at, window = rng.randint(1, n - 1), rng.randrange(1100), rng.randrange(1, 1200)
        base, tail = blocks.build(events[:split], [True]), blocks.build(events[split:], [True])
        found: dict[str, Any] = {}
        blocks.Window([("d", 0, "distinct", window), ("a", 0, "approx_distinct", window)]).read(base, tail, at, found)
        wanted = len({e[4][0] for e in events if at - window < e[0] <= at and e[4][0] is not None})
        assert found == {"d": wanted, "a": wanted}, (kind, at, window)
