"""Every error a person can meet, as one family tree: a stable number, a message, the mend.

    HoldfastError
    ├── UsersTurn (exit 1, HTTP 4xx)
    │   ├── BadInput          HF1xx   a value, file, or request that cannot be used
    │   │   ├── BadConfig     HF110   holdfast.toml or the environment
    │   │   ├── BadDefinition HF120   definitions.py
    │   │   └── BadData       HF130   a table that breaks its schema
    │   ├── NotFound          HF2xx   a name that leads nowhere
    │   ├── Conflict          HF3xx   already there, changed meanwhile, locked
    │   ├── Refused           HF4xx   policy says no (gate, trust, limits)
    │   │   ├── NotAllowed    HF410   who you are
    │   │   ├── NotApproved   HF420   the gate
    │   │   ├── NotTrusted    HF430   a model file nobody vouches for
    │   │   └── TooMuch       HF440   a limit
    │   └── Unavailable       HF5xx   a service that cannot be reached now
    └── OurTurn (exit 2, HTTP 500)
        └── Damaged           HF9xx   stored bytes are not what was written

Protocols map ``number`` to their own codes; errors know nothing of protocols.
"""

from __future__ import annotations

from collections.abc import Iterable


class HoldfastError(Exception):
    """Base of the tree. ``message`` says what is wrong, ``hint`` how to mend it, ``number`` is stable."""

    number = "HF000"
    status = 500
    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None, number: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if number is not None:
            self.number = number

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def as_dict(self) -> dict[str, object]:
        """The error as every ``--json`` answer and HTTP body shows it."""
        return {"error": {"code": self.number, "message": self.message, "hint": self.hint}}


class UsersTurn(HoldfastError):
    number = "HF001"
    status = 400
    exit_code = 1


class BadInput(UsersTurn):
    number = "HF100"


class BadConfig(BadInput):
    number = "HF110"


class BadDefinition(BadInput):
    number = "HF120"


class BadData(BadInput):
    number = "HF130"
    status = 422


class NotFound(UsersTurn):
    number = "HF200"
    status = 404

    @classmethod
    def among(cls, kind: str, missing: str, known: Iterable[str], *, hint: str | None = None) -> NotFound:
        """``unknown feature 'amout'; did you mean 'amount'?``, naming what is there when nothing is near."""
        return cls(f"unknown {kind} {missing!r}", hint=hint or did_you_mean(missing, known, kind=kind))


class Conflict(UsersTurn):
    number = "HF300"
    status = 409


class Refused(UsersTurn):
    number = "HF400"
    status = 403


class NotAllowed(Refused):
    number = "HF410"


class NotApproved(Refused):
    number = "HF420"
    status = 400


class NotTrusted(Refused):
    number = "HF430"


class TooMuch(Refused):
    number = "HF440"
    status = 413


class Unavailable(UsersTurn):
    number = "HF500"
    status = 503


class OurTurn(HoldfastError):
    number = "HF900"


class Damaged(OurTurn):
    number = "HF910"


def did_you_mean(word: str, known: Iterable[str], *, kind: str = "name") -> str:
    """A hint: the nearest known word, or the first few known ones, or that there are none."""
    names = sorted(set(known))
    import difflib

    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    if not names:
        return f"there is no {kind} yet"
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"known: {shown}"
