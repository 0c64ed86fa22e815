"""Sending queued messages to where people read them. Nothing leaves the machine unless an address is configured.

Addresses: ``https://…`` and ``http://…`` (a JSON POST), ``smtp://`` and
``smtps://user:password@host:port/?from=a&to=b`` (standard library), everything else (``slack://``, ``mailto://`` …)
through Apprise where the ``alerts`` extra is installed; ``env:NAME`` is an address kept in an environment variable.
The ledger keeps a digest of an address, never the address. A message is sent once to each address and tried again
until it is; if the sender dies between sending and writing that down, it is sent twice with the same ``Idempotency-
Key`` / Message-ID."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Callable, Sequence

import msgspec

from holdfast.core.errors import BadConfig
from holdfast.core.identity import digest, iso
from holdfast.core.ports import Ledger
from holdfast.monitoring.alerts import OUTBOX, Message, waiting

TIMEOUT = 10.0
TRIES = 50
LEASE_SECONDS = 120.0
Sender = Callable[[str, Message], None]


def deliver(
    ledger: Ledger,
    addresses: Sequence[str],
    *,
    holder: str,
    service: str | None = None,
    senders: Sender | None = None,
) -> tuple[int, int]:
    """Send what waits (of one service, where named) to every address; (sent, failed). One process at a time does it;
    the others return (0, 0) at once.

    Never raises for a destination that fails: the error is kept with the message, which is tried again next time, at
    most 50 times. Without addresses the queue is emptied: nobody asked to be told.
    """
    if not ledger.lease("alerts", holder=holder, seconds=LEASE_SECONDS):
        return 0, 0
    sent = failed = 0
    try:
        for message in waiting(ledger):
            if service not in (None, message.service):
                continue
            for address in addresses:
                mark = digest(address)[:16]
                if mark in message.sent:
                    continue
                try:
                    (senders or send)(address, message)
                except Exception as error:  # noqa: BLE001 - whatever a destination does, monitoring goes on
                    failed += 1
                    message = msgspec.structs.replace(message, error=safe(error, address))
                else:
                    sent += 1
                    message = msgspec.structs.replace(message, sent=[*message.sent, mark], error="")
                    _keep(ledger, message)
                if not ledger.lease("alerts", holder=holder, seconds=LEASE_SECONDS):
                    return sent, failed
            _settle(ledger, message, addresses)
    finally:
        ledger.release_lease("alerts", holder=holder)
    return sent, failed


def send(address: str, message: Message) -> None:
    """Send one message to one address.

    Raises:
        BadConfig: the address cannot be used.
        OSError: the destination cannot be reached or said no.
    """
    address = resolve(address)
    scheme = address.partition("://")[0].lower()
    if scheme in ("http", "https"):
        _webhook(address, message)
    elif scheme in ("smtp", "smtps"):
        _mail(address, message)
    else:
        _apprise(address, message)


def resolve(address: str) -> str:
    """The address itself, read from the environment where it says ``env:NAME``.

    Raises:
        BadConfig: the variable is not set.
    """
    if not address.startswith("env:"):
        return address
    value = os.environ.get(address[4:])
    if not value:
        raise BadConfig(
            f"alerts go to {address}, but {address[4:]} is not set", hint=f"export {address[4:]}=… where the loop runs"
        )
    return value


def payload(message: Message) -> dict[str, object]:
    """What a webhook receives. ``text`` is what chat services show."""
    return {
        "id": message.id, "incident": message.incident, "service": message.service, "event": message.event,
        "title": message.title, "text": f"{message.title}\n{message.text}", "at": iso(message.at),
    }  # fmt: skip


def _webhook(address: str, message: Message) -> None:
    import urllib.error
    import urllib.request

    class Stay(urllib.request.HTTPRedirectHandler):
        """Follows nothing: a redirect could lead a page to somewhere nobody chose."""

        def redirect_request(self, *args: object, **kwargs: object) -> None:
            return None

    # The scheme was checked by the caller; no proxy or file handler is reachable from it.
    request = urllib.request.Request(  # noqa: S310
        address, data=msgspec.json.encode(payload(message)), method="POST",
        headers={"Content-Type": "application/json", "Idempotency-Key": message.id, "User-Agent": "holdfast"},
    )  # fmt: skip
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=TIMEOUT) as answer:
            answer.read(1 << 16)
    except urllib.error.HTTPError as error:
        raise OSError(f"the webhook answered {error.code}") from None


def _mail(address: str, message: Message) -> None:
    import smtplib
    import ssl
    from email.message import EmailMessage

    parts = urllib.parse.urlsplit(address)
    query = urllib.parse.parse_qs(parts.query)
    to, sender = query.get("to", []), query.get("from", [""])[0]
    if not parts.hostname or not to or not sender:
        raise BadConfig(
            "an smtp address needs a host, from and to",
            hint="write smtps://user:password@host:465/?from=a@b.c&to=d@e.f",
        )
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = " ".join(message.title.split())[:200], sender, ", ".join(to)
    mail["Message-ID"] = f"<{message.id}@holdfast>"
    mail.set_content(f"{message.text}\n\nincident {message.incident}, {iso(message.at)}\n")
    context = ssl.create_default_context()
    if parts.scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(parts.hostname, parts.port or 465, timeout=TIMEOUT, context=context)
    else:
        server = smtplib.SMTP(parts.hostname, parts.port or 25, timeout=TIMEOUT)
    with server:
        server.ehlo()
        if parts.scheme == "smtp" and server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo()
        if parts.username:
            server.login(urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or ""))
        server.send_message(mail)


def _apprise(address: str, message: Message) -> None:
    try:
        import apprise
    except ImportError:
        raise BadConfig(
            f"alerts to {address.partition('://')[0]}:// need Apprise",
            hint="pip install 'holdfast[alerts]', or use an https:// webhook or smtp://",
        ) from None
    sender = apprise.Apprise()
    if not sender.add(address):
        raise BadConfig(
            f"Apprise does not know the address {address.partition('://')[0]}://…",
            hint="see https://github.com/caronc/apprise/wiki for its forms",
        )
    if not sender.notify(title=message.title, body=message.text or message.title):
        raise OSError("the service did not take the message")


def _keep(ledger: Ledger, message: Message) -> None:
    with ledger.transaction() as tx:
        tx.put(OUTBOX, _key(message), msgspec.to_builtins(message))


def _settle(ledger: Ledger, message: Message, addresses: Sequence[str]) -> None:
    done = all(digest(a)[:16] in message.sent for a in addresses)
    tried = msgspec.structs.replace(message, tries=message.tries + 1)
    with ledger.transaction() as tx:
        if done or tried.tries >= TRIES:
            tx.delete(OUTBOX, _key(message))
            if not done:
                tx.append(
                    "alert.given-up",
                    subject=message.service,
                    at=message.at,
                    actor="alerts",
                    body={"message": message.id, "error": tried.error},
                )
        else:
            tx.put(OUTBOX, _key(message), msgspec.to_builtins(tried))


def shown(address: str) -> str:
    """An address as it may be shown: its scheme and host, nothing secret."""
    if address.startswith("env:"):
        return address
    parts = urllib.parse.urlsplit(address)
    return f"{parts.scheme}://{parts.hostname if parts.scheme in ('http', 'https', 'smtp', 'smtps') else '…'}"


def safe(error: Exception, address: str) -> str:
    """The error without the address, which holds secrets."""
    text = f"{type(error).__name__}: {error}"
    full = os.environ.get(address[4:], "") if address.startswith("env:") else address
    parts = urllib.parse.urlsplit(full)
    for secret in (full, parts.password, parts.username, parts.path.strip("/"), parts.query):
        if secret:
            text = text.replace(secret, "…")
    return text[:300]


def _key(message: Message) -> str:
    return f"{message.at:020d}/{message.id}"
