"""Addresses of databases and stores as people write them: with ``${NAME}`` for what the environment holds, and never
shown, hashed or kept with the secrets in them."""

from __future__ import annotations

import os
import re
import urllib.parse

from holdfast.core.errors import BadConfig

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def public(address: str) -> str:
    """An address without user, password and parameters: what may be shown, hashed and kept. ``${NAME}`` stays."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address if _VARIABLE.fullmatch(address) else "…"
    # A password may hold @ and /, so everything up to the last @ goes where there is a colon before it.
    before, at, after = rest.rpartition("@")
    if at and not rest.startswith("/") and (":" in before or "/" not in before):
        rest = after
    return f"{scheme}://{re.split('[?#]', rest, maxsplit=1)[0]}"


def expanded(address: str, what: str) -> str:
    """The address with the environment's values in place of ``${NAME}``.

    Raises:
        BadConfig: a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], "")
        if not found:
            raise BadConfig(
                f"{what} needs the environment variable {match[1]}, which is not set", hint=f"export {match[1]}=… where this runs"
            )  # fmt: skip
        return found

    return _VARIABLE.sub(value, address)


def hide(text: str, address: str, full: str) -> str:
    """A message of somebody else's without anything secret of an address; ``full`` is the address expanded."""
    secrets = {full, *(os.environ.get(name, "") for name in _VARIABLE.findall(address))}
    for url in list(secrets):
        rest = url.partition("://")[2]
        user = rest.rpartition("@")[0] if not rest.startswith("/") else ""
        password = user.partition(":")[2]
        secrets |= {user, password, urllib.parse.unquote(password), rest.partition("?")[2]}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "…")
    return text
