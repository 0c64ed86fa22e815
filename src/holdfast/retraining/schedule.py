"""Which ticks of a cron schedule fall between two instants, in a zone, over daylight saving.

Cron arithmetic is cronsim's, which follows Debian's cron: a tick at a fixed time that a spring change skips happens
right after the change, one that an autumn change repeats happens once."""

from __future__ import annotations

import functools
from collections import deque
from datetime import timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from holdfast.core.errors import BadInput, did_you_mean
from holdfast.core.identity import from_us, to_us

KEPT = 1000
_HORIZON = timedelta(days=800)


def due(cron: str, zone: str, last: int, now: int) -> list[int]:
    """Ticks with last < tick <= now, oldest first, microseconds UTC; the newest 1000 of them.

    Ticks missed while nobody looked are all here; whoever runs them runs once for the newest (``missed = run once``).

    Raises:
        BadInput: not a cron expression, or not a zone.
    """
    place = check(cron, zone)
    start, end = from_us(last), from_us(now)
    if end <= start:
        return []
    start = max(start, end - _HORIZON)
    ticks: deque[int] = deque(maxlen=KEPT)
    simulation = CronSim(cron, start.astimezone(place) - timedelta(minutes=1))
    for tick in simulation:
        instant = to_us(tick)
        if instant > now:
            break
        if instant > last:
            ticks.append(instant)
    return list(ticks)


def following(cron: str, zone: str, now: int) -> int | None:
    """The first tick after ``now``, or None if there is none within 50 years."""
    place = check(cron, zone)
    for tick in CronSim(cron, from_us(now).astimezone(place) - timedelta(minutes=1)):
        instant = to_us(tick)
        if instant > now:
            return instant
    return None


@functools.lru_cache(maxsize=64)
def check(cron: str, zone: str) -> ZoneInfo:
    """The zone, after making sure that both can be used.

    Raises:
        BadInput: not a cron expression, or not a zone.
    """
    try:
        place = ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        from zoneinfo import available_timezones

        raise BadInput(
            f"unknown time zone {zone!r}", hint=did_you_mean(zone, available_timezones(), kind="time zone")
        ) from None
    try:
        CronSim(cron, from_us(0).astimezone(place))
    except CronSimError as error:
        raise BadInput(
            f"{cron!r} is not a schedule: {error}",
            hint='write minute hour day month weekday, as in "0 2 * * *" for 02:00 every day',
        ) from None
    return place
