"""An answer that comes later, from within this process: handed on by one call, without a task or future of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from holdfast.serving.wire import Request, Response

Outcome: TypeAlias = "Response | BaseException"


class Later:
    """Given to whoever asked; its maker calls ``give`` once, on the event loop. One receiver takes it (``to``), or it is
    awaited; until then it is kept."""

    __slots__ = ("_outcome", "_receive", "_watch", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self._outcome: Outcome | None = None
        self._receive: Callable[[Request, Outcome], None] | None = None
        self._watch: Callable[[Request, Outcome], Outcome] | None = None

    def watch(self, watch: Callable[[Request, Outcome], Outcome]) -> None:
        """Have the outcome pass through ``watch`` before it is handed on. One watcher; before ``give``."""
        self._watch = watch

    def to(self, receive: Callable[[Request, Outcome], None]) -> None:
        """Hand the outcome to ``receive``: when it is there, or now."""
        if self._outcome is None:
            self._receive = receive
        else:
            receive(self.request, self._outcome)

    def give(self, outcome: Outcome) -> None:
        """Settle it. Only the first outcome counts. Never raises: others are answered after this one."""
        if self._outcome is not None:
            return
        if self._watch is not None:
            try:
                outcome = self._watch(self.request, outcome)
            except Exception as problem:  # noqa: BLE001 - told to the one who asked
                outcome = problem
        self._outcome = outcome
        if self._receive is not None:
            self._receive(self.request, outcome)

    def __await__(self) -> Generator[Any, None, Response]:
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def settle(_: Request, outcome: Outcome) -> None:
            if future.done():
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.to(settle)
        return (yield from future.__await__())
