"""Instants: microseconds UTC from what people write, and from nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from holdfast.core.errors import BadInput
from holdfast.core.identity import from_us, to_us

FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "instant", [FIRST, LAST, datetime(1970, 1, 1, tzinfo=UTC), datetime(2013, 3, 1, 6, tzinfo=UTC)]
)
def test_an_instant_is_the_same_as_text_number_and_datetime(instant: datetime) -> None:
    us = to_us(instant)
    assert to_us(instant.isoformat()) == to_us(us) == us and from_us(us) == instant


@pytest.mark.parametrize(
    "wrong",
    [
        1 << 70, -(1 << 70), 1 << 62, 1_762_000_000_000_000_000, to_us(FIRST) - 1, to_us(LAST) + 1, True, "noon", None,
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "0001-01-01T00:00:00+01:00",
    ],
)  # fmt: skip
def test_what_is_no_instant_is_refused(wrong: object) -> None:
    """Nanoseconds too: as microseconds they lie in the year 57,000."""
    with pytest.raises(BadInput, match="is not an instant"):
        to_us(wrong)
