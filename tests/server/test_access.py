from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.errors import BadConfig, BadInput
from holdfast.server import access
from holdfast.server.limits import LimitsMiddleware


def code(rules: access.Access, role: access.Role | None = "read", **headers: str) -> str | None:
    problem = rules.check({k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}, role=role)
    return None if problem is None else problem.number


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST.:80", "models.example:1", "a.sub.example"]
)
def test_hosts_that_are_answered(host: str) -> None:
    assert code(access.Access(hosts=["models.example", "*.sub.example"]), host=host) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil", "sub.example", "", "[::2]", "x" * 500]
)
def test_hosts_that_are_not(host: str) -> None:
    assert code(access.Access(hosts=["models.example", "*.sub.example"]), host=host) == "HF412"


def test_a_foreign_origin_is_refused() -> None:
    rules = access.Access()
    assert code(rules, host="localhost", origin="http://localhost:3000") is None
    assert code(rules, host="localhost", origin="https://evil.example") == "HF413"


def test_tokens_roles_and_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "tokens.json"
    secret = access.issue(path, "app", "predict")
    assert secret not in path.read_text() and path.stat().st_mode & 0o777 == 0o600
    rules = access.Access(tokens=access.load(path), bind="0.0.0.0")
    rules.require_safe()
    bearer = f"Bearer {secret}"
    assert code(rules, "predict", authorization=bearer) is None
    assert code(rules, "predict", authorization="basic " + base64.b64encode(f"me:{secret}".encode()).decode()) is None
    assert code(rules, "write", authorization=bearer) == "HF410"
    for bad in ("", "Bearer ", "Bearer hf_wrong", "Basic !!!", secret):
        assert code(rules, "predict", authorization=bad) == "HF411"
    assert code(rules, None) is None
    with pytest.raises(BadInput):
        access.issue(path, "app", "read")
    assert access.revoke(path, "app") and not access.revoke(path, "app")
    assert access.load(path) == []


@pytest.mark.parametrize("bind", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_beyond_loopback_needs_a_token(bind: str) -> None:
    with pytest.raises(BadConfig, match="token"):
        access.Access(bind=bind).require_safe()
    access.Access(bind="127.0.0.1").require_safe()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def ask(
    app: Any, pieces: list[bytes], *, headers: list[tuple[bytes, bytes]] | None = None, stall: float = 0.0
) -> tuple[int, bytes]:
    """Drive an ASGI app: (status, body)."""
    out: list[Any] = []
    left = list(pieces)

    async def receive() -> Any:
        if len(left) == 1 and stall:
            await asyncio.sleep(stall)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        out.append(message)

    scope = {"type": "http", "method": "POST", "path": "/x", "headers": headers or []}
    asyncio.run(app(scope, receive, send))
    return out[0]["status"], out[1]["body"]


def test_limits_middleware() -> None:
    codes: list[str] = []
    app = LimitsMiddleware(echo, body=10, arrival=0.05, refused=codes.append)
    assert ask(app, [b"12345", b"67890"]) == (200, b"10")
    assert ask(app, [b"12345", b"678901"])[0] == 413
    assert ask(app, [b""], headers=[(b"Content-Length", b"11")])[0] == 413
    assert ask(app, [b"1", b"2"], stall=0.5)[0] == 408
    app.concurrent = 0
    status, body = ask(app, [b""])
    assert (status, json.loads(body)["error"]["code"]) == (503, "HF513")
    assert codes == ["HF440", "HF440", "HF441", "HF513"]


def test_access_middleware_refuses_before_the_application() -> None:
    app = access.AccessMiddleware(echo, access=access.Access(tokens=[access.of("t")]), role_of=lambda m, p: "write")
    assert ask(app, [b"x"], headers=[(b"Host", b"localhost"), (b"Authorization", b"Bearer t")]) == (200, b"1")
    status, body = ask(app, [b"x"], headers=[(b"Host", b"localhost")])
    assert (status, json.loads(body)["error"]["code"]) == (401, "HF411")
