"""An answer that comes later reaches its receiver once, before or after somebody asks for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.core.errors import BadInput
from holdfast.serving.later import Later
from holdfast.serving.wire import Request, Response

REQUEST = Request("POST", b"/", "/", b"", {}, b"")
YES, NO = Response(200, b"yes"), Response(503, b"no")


@pytest.mark.parametrize("early", [True, False])
def test_one_receiver_one_outcome(early: bool) -> None:
    got: list[Any] = []
    later = Later(REQUEST)
    if early:
        later.to(lambda request, outcome: got.append((request, outcome)))
    later.give(YES)
    later.give(NO)
    if not early:
        later.to(lambda request, outcome: got.append((request, outcome)))
    assert got == [(REQUEST, YES)]


def test_a_watcher_may_replace_what_is_handed_on() -> None:
    got: list[Any] = []
    later = Later(REQUEST)
    later.watch(lambda request, outcome: NO if isinstance(outcome, BaseException) else outcome)
    later.to(lambda request, outcome: got.append(outcome))
    later.give(BadInput("bad"))
    assert got == [NO]
    told = Later(REQUEST)

    def broken(request: Request, outcome: Any) -> Any:
        raise ZeroDivisionError

    told.watch(broken)
    told.to(lambda request, outcome: got.append(outcome))
    told.give(YES)
    assert isinstance(got[1], ZeroDivisionError)


def test_it_can_be_awaited_and_given_up() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        ready, coming, failing, left = (Later(REQUEST) for _ in range(4))
        ready.give(YES)
        assert await ready == YES
        loop.call_later(0.01, coming.give, NO)
        assert await coming == NO
        loop.call_later(0.01, failing.give, BadInput("bad"))
        with pytest.raises(BadInput):
            await failing
        waiting = asyncio.ensure_future(left)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        left.give(YES)

    asyncio.run(story())
