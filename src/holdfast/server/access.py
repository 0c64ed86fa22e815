"""Who may speak to a listener: host and origin checks, bearer tokens with roles. Plain ASGI middleware, and the same
decision as a function for listeners that are not ASGI.

Tokens are shown once and kept as SHA-256; they are 256 random bits, so a slow hash would add nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from holdfast.core.errors import BadConfig, BadInput, HoldfastError, NotAllowed
from holdfast.core.identity import check_name

Role = Literal["read", "predict", "write", "approve", "admin"]
ROLES: dict[str, frozenset[str]] = {
    "read": frozenset({"read"}),
    "predict": frozenset({"predict"}),
    "write": frozenset({"read", "predict", "write"}),
    "approve": frozenset({"read", "predict", "write", "approve"}),
    "admin": frozenset({"read", "predict", "write", "approve", "admin"}),
}
PREFIX = "hf_"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Unauthenticated(NotAllowed):
    """No token, or one nobody issued."""

    number = "HF411"
    status = 401


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token at rest."""

    name: str
    role: Role
    sha256: str


class Access:
    """The rules of one listener.

    Args:
        tokens: who may do what; with none, everybody who can reach a listener on loopback may do everything, and one
            beyond it lets nobody in (``require_safe`` refuses to begin so).
        hosts: names accepted in Host and Origin beside loopback and ``bind``; a leading ``*.`` covers subdomains.
        bind: the address listened on.
        source: a file with more tokens, read again when it changes: an issued token works and a revoked one stops with
            the next request. Once there were tokens, taking the last one back shuts the listener, it does not open it.
    """

    def __init__(
        self,
        *,
        tokens: Iterable[Token] = (),
        hosts: Iterable[str] = (),
        bind: str = "127.0.0.1",
        source: Path | None = None,
    ) -> None:
        self._given = list(tokens)
        self._kept: list[Token] = []
        self._source = source
        self._mark: tuple[int, int, int] | None = None
        # Beyond this machine a token is always needed: a listener that starts anew after the last one was taken back must
        # not be open.
        self._was_guarded = bool(self._given) or not is_loopback(bind)
        self.bind = bind
        self.generation = 0
        """Counts how often the file was read anew, for whoever remembers what passed."""
        if source is not None:
            self._kept = load(source)  # a broken file is told at the start
            self._mark = _mark(source)
        own = () if _is_any(bind) else (bind,)
        self._hosts = {_plain(h) for h in (*_LOOPBACK, *own, *hosts)}

    @property
    def tokens(self) -> list[Token]:
        """Who may do what, as of now."""
        self.refresh()
        return [*self._given, *self._kept]

    def refresh(self) -> None:
        """Read the tokens again if their file changed."""
        if self._source is None or (mark := _mark(self._source)) == self._mark:
            return
        self._was_guarded = self._was_guarded or bool(self._kept)
        try:
            self._kept = load(self._source)
        except BadConfig:
            self._kept = []  # what cannot be read lets nobody in
            self._was_guarded = True
        self._mark = mark
        self.generation += 1

    @property
    def guarded(self) -> bool:
        """Whether a token is needed."""
        self._was_guarded = self._was_guarded or bool(self.tokens)
        return self._was_guarded

    def require_safe(self) -> None:
        """Refuse to listen beyond this machine without a token.

        Raises:
            BadConfig: the address is not loopback and there is no token.
        """
        if not self.tokens and not is_loopback(self.bind):
            raise BadConfig(
                f"listening on {self.bind} without a token would let everybody in",
                hint="make one with `holdfast server token NAME --role ROLE` (predict for services, write for tracking), or listen on 127.0.0.1",
            )

    def check(self, headers: Mapping[bytes, bytes], *, role: Role | None) -> HoldfastError | None:
        """Why a request is refused; None when it may pass. ``headers`` are lower-cased; no ``role``, no token."""
        host = headers.get(b"host")
        if host is not None and not self._host_ok(host.decode("latin-1")):
            return NotAllowed(
                f"the host {host.decode('latin-1', 'replace')[:80]!r} is not one this server answers to",
                hint="add it to `hosts` of the [server] or [serve] table in holdfast.toml",
                number="HF412",
            )
        origin = headers.get(b"origin")
        if origin is not None and origin != b"null" and not self._host_ok(urlsplit(origin.decode("latin-1")).netloc):
            return NotAllowed(
                "a page of another site may not call this server",
                hint="add its host to `hosts` in holdfast.toml if you trust it",
                number="HF413",
            )
        if role is None or not self.guarded:
            return None
        token = self.who(headers)
        if token is None:
            return Unauthenticated("a token is needed", hint="send `Authorization: Bearer hf_…`")
        if role not in ROLES[token.role]:
            return NotAllowed(
                f"token {token.name!r} has role {token.role!r}; this needs {role!r}", hint="use another token"
            )
        return None

    def who(self, headers: Mapping[bytes, bytes]) -> Token | None:
        """The token a request carries, if it was issued. Basic auth's password counts too: MLflow's client sends it."""
        given = _bearer(headers.get(b"authorization", b""))
        if not given:
            return None
        shown = hashlib.sha256(given).hexdigest()
        found = None
        for token in self.tokens:
            if hmac.compare_digest(token.sha256, shown):
                found = token
        return found

    def _host_ok(self, text: str) -> bool:
        name = _plain(text)
        if name in self._hosts:
            return True
        parent = name.partition(".")[2]
        return bool(parent) and f"*.{parent}" in self._hosts


class AccessMiddleware:
    """``Access`` in front of an ASGI application. ``role_of`` names the role a (method, path) needs, None for none."""

    def __init__(self, app: App, *, access: Access, role_of: Callable[[str, str], Role | None]) -> None:
        self.app = app
        self.access = access
        self.role_of = role_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        problem = self.access.check(headers, role=self.role_of(scope.get("method", "GET"), scope["path"]))
        if problem is None:
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        body = msgspec.json.encode(problem.as_dict())
        answer = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if problem.status == 401:
            answer.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": problem.status, "headers": answer})
        await send({"type": "http.response.body", "body": body})


# --- tokens at rest ---------------------------------------------------------------------------------------------------


def issue(path: Path, name: str, role: Role) -> str:
    """Make a token, keep its hash in ``path`` (JSON, owner only), return the token: the only time it is seen.

    Raises:
        BadInput: the name or role is not one, or the name is taken.
    """
    check_name(name, "token")
    if role not in ROLES:
        raise BadInput(f"{role!r} is not a role", hint=f"use one of {', '.join(ROLES)}")
    known = load(path)
    if any(t.name == name for t in known):
        raise BadInput(f"there is a token {name!r} already", hint="revoke it first, or choose another name")
    secret = PREFIX + secrets.token_urlsafe(32)
    _store(path, [*known, of(secret, name, role)])
    return secret


def revoke(path: Path, name: str) -> bool:
    """Forget a token; False when there was none of that name."""
    known = load(path)
    _store(path, [t for t in known if t.name != name])
    return any(t.name == name for t in known)


def of(secret: str, name: str = "configured", role: Role = "admin") -> Token:
    """The token at rest for a secret that comes from settings or the environment."""
    return Token(name=name, role=role, sha256=hashlib.sha256(secret.encode()).hexdigest())


def load(path: Path) -> list[Token]:
    """The tokens kept in ``path``; none where there is no such file.

    Raises:
        BadConfig: the file is not a list of tokens.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Token])
    except FileNotFoundError:
        return []
    except msgspec.MsgspecError as problem:
        raise BadConfig(
            f"{path.name} is not a list of tokens: {problem}", hint="remove it and issue tokens again"
        ) from None


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file is replaced; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _store(path: Path, tokens: list[Token]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(msgspec.json.encode(tokens))
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)


# --- parsing ----------------------------------------------------------------------------------------------------------


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound


def _plain(host: str) -> str:
    """A host without port, brackets, trailing dot and case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    if host.count(":") == 1:
        host = host.partition(":")[0]
    return host.removesuffix(".")


def _bearer(value: bytes) -> bytes:
    scheme, _, rest = value.partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() == b"basic":
        import base64
        import binascii

        try:
            return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""
