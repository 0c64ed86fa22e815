"""The printed promise: at most 1 false alarm per 100 checks with nothing changed, over all features and families; at
least 95 % of 0.3-sd shifts found at 1,000 rows. Simulated worlds with known truth; bounds are exact binomial at 1 in
10,000."""

import numpy as np
import pytest

from holdfast.core.definitions import Drift
from holdfast.monitoring import drift
from holdfast.stats.tails import binomial_sf
from tests.monitoring.streams import World, change, streams

WORLDS = {
    "iid": World(),
    "iid, 100 columns": World(columns=100),
    "weekly": World(weekly=0.6),
    "hourly": World(hourly=0.6),
    "day noise": World(noise=0.1),
    "day noise, strong": World(noise=0.2),
    "day noise with memory": World(noise=0.1, memory=0.5),
    "all of it": World(weekly=0.4, hourly=0.4, noise=0.1, memory=0.5),
}
CHANCE = 1e-4


def checks(
    world: World, seed: int, references: int, windows: int, days: int, rows: int, shift: float = 0.3
) -> tuple[int, int, int]:
    """(checks, false alarms on untouched windows, windows in which a shift of one column was found and named)."""
    alarms = found = 0
    print(f"seed {seed}")
    for i in range(references):
        reference, times, later = streams(np.random.default_rng([seed, i]), world, days, rows, windows)
        profile = drift.profile(reference, times, columns=reference.column_names)
        for window, at in later:
            alarms += any(s.alarm for s in drift.compare(profile, window, drift=Drift(), times=at))
            moved = change(window, "x0", lambda v: v + shift)
            found += any(
                s.alarm and s.name == "x0" and s.family == "shape"
                for s in drift.compare(profile, moved, drift=Drift(), times=at)
            )
    return references * windows, alarms, found


@pytest.mark.parametrize("name", ["iid", "weekly", "day noise", "all of it"])
def test_false_alarms(name: str) -> None:
    total, alarms, _ = checks(WORLDS[name], 501, references=4, windows=8, days=7, rows=1000)
    assert binomial_sf(alarms, total, 0.01) > CHANCE, f"{alarms} false alarms in {total} checks"


@pytest.mark.parametrize(("name", "days"), [("iid", 1), ("iid", 7), ("weekly", 7), ("hourly", 7)])
def test_power(name: str, days: int) -> None:
    total, _, found = checks(WORLDS[name], 502, references=4, windows=8, days=days, rows=1000)
    assert binomial_sf(total - found, total, 0.05) > CHANCE, f"{found} of {total} shifts found"


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("days", [1, 7])
@pytest.mark.parametrize("rows", [1000, 5000])
@pytest.mark.parametrize("name", WORLDS)
def test_false_alarms_and_power_at_length(name: str, rows: int, days: int) -> None:
    world = WORLDS[name]
    total, alarms, found = checks(world, 700, references=100, windows=2, days=days, rows=rows)
    print(f"{name}, {rows} rows in {days} days: {alarms} false alarms and {found} of {total} shifts found")
    assert binomial_sf(alarms, total, 0.01) > CHANCE, f"{alarms} false alarms in {total} checks"
    # Where days themselves move by more than a small part of the shift, one window cannot tell them apart.
    if world.noise == 0:
        assert binomial_sf(total - found, total, 0.05) > CHANCE, f"{found} of {total} shifts found"
