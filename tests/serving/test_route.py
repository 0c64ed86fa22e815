from __future__ import annotations

import math
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.errors import Unavailable
from holdfast.core.records import Arm, Release
from holdfast.serving import route


def release(weight: float | None, salt: str = "s") -> Release:
    challenger = None if weight is None else Arm(version=2, content="b", weight=weight)
    return Release(
        service="svc",
        environment="production",
        model="m",
        sequence=1,
        champion=Arm(version=1, content="a"),
        challenger=challenger,
        salt=salt,
    )


def exposure(keys: int, weight: float, salt: str) -> int:
    r = release(weight, salt)
    return sum(route.choose(r, f"card-{i}").arm == "challenger" for i in range(keys))


@pytest.mark.parametrize("weight", [0.1, 1.0, 5.0, 25.0, 50.0, 99.0])
def test_exposure_is_the_weight_within_three_sigma(weight: float) -> None:
    n, p = 20_000, weight / 100
    assert abs(exposure(n, weight, "seed-11") - n * p) <= 3 * math.sqrt(n * p * (1 - p))


@pytest.mark.soak
@pytest.mark.parametrize("weight", [0.1, 1.0, 5.0, 25.0, 50.0])
def test_exposure_over_a_million_keys(weight: float) -> None:
    n, p = 1_000_000, weight / 100
    assert abs(exposure(n, weight, "seed-12") - n * p) <= 3 * math.sqrt(n * p * (1 - p))


@settings(derandomize=True, max_examples=300)
@given(st.text(max_size=40), st.floats(0, 100), st.floats(0, 100))
def test_sticky_and_monotone(key: str, one: float, two: float) -> None:
    low, high = sorted((one, two))
    at_low, at_high = route.choose(release(low), key), route.choose(release(high), key)
    assert at_low == route.choose(release(low), key)
    assert at_low.arm == "champion" or at_high.arm == "challenger"
    assert route.choose(release(0.0), key).arm == route.choose(release(None), key).arm == "champion"
    assert route.choose(release(100.0), key).arm == "challenger"


def test_the_point_is_fixed_for_all_time() -> None:
    # A changed hash would move every caller to another arm at an upgrade.
    text = b"".join(len(p).to_bytes(4, "big") + p for p in (b"svc", b"s", b"card-1"))
    assert (
        route.point("svc", "s", "card-1") == int.from_bytes(blake2b(text, digest_size=8).digest(), "big") * 100 / 2**64
    )
    assert route.point("svc", "s", "card-1") == pytest.approx(62.29357155, abs=1e-6)


def test_glued_parts_do_not_collide() -> None:
    assert route.point("ab", "c", "d") != route.point("a", "bc", "d")


def test_no_champion_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        route.choose(Release(service="svc", environment="production", model="m", sequence=1, champion=None), "k")
