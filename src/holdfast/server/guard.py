"""``Access`` as the guard of a ``serving.wire.Listener``: what passed is remembered, so that a request costs one lookup."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.server.access import Access, Role
from holdfast.serving.wire import Request, Response, from_error

_REMEMBERED = 1024
_LOOK_NS = 1_000_000_000


def guard(access: Access, role_of: Callable[[str, str], Role | None]) -> Callable[[Request], Response | None]:
    """Refuses a request that may not pass. ``role_of`` names the role a (method, path) needs, None for none. A token
    issued or taken back counts within a second."""

    passed: set[tuple[bytes | str | None, ...]] = set()
    looked = 0
    generation = access.generation

    def check(request: Request) -> Response | None:
        nonlocal looked, generation
        if request.received - looked > _LOOK_NS:
            looked = request.received
            access.refresh()
            if access.generation != generation:
                generation = access.generation
                passed.clear()
        headers = request.headers
        asked = (
            headers.get(b"host"),
            headers.get(b"origin"),
            headers.get(b"authorization"),
            request.method,
            request.target,
        )
        if asked in passed:
            return None
        role = role_of(request.method, request.path)
        # Probes come to an address, not a name, and learn nothing.
        problem = None if role is None else access.check(headers, role=role)
        if problem is None:
            # What passed once passes again, until the tokens change.
            if len(passed) >= _REMEMBERED:
                passed.clear()
            passed.add(asked)
            return None
        answer = from_error(problem)
        return answer._replace(headers=((b"www-authenticate", b"Bearer"),)) if problem.status == 401 else answer

    return check
