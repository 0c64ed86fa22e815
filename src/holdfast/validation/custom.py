"""Checks of the user's own: a plain function of the context."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from holdfast.core.definitions import Rule
from holdfast.core.errors import BadInput
from holdfast.core.records import Evidence
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context


def custom(context: Context, rule: Rule) -> list[Evidence]:
    """Call the function and read its answer.

    Raises:
        BadInput: the rule carries no function, or it answered with something that is no evidence.
    """
    if rule.function is None:
        raise BadInput(
            f"check {rule.metric!r} has no function here", hint="run the gate from the project that defines it"
        )
    options = {k: v for k, v in rule.options.items() if k != "function"}
    takes = inspect.signature(rule.function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        options = {k: v for k, v in options.items() if k in takes}
    return read(rule.function(context, **options), rule, n=len(context.y))


def read(answer: Any, rule: Rule, *, n: int) -> list[Evidence]:
    """Evidence from what a check answered: Evidence, several, a truth value, a number, or (number, low, high)."""
    check = naming.key(rule)
    if isinstance(answer, Evidence):
        return [msgspec.structs.replace(answer, check=check)]
    if isinstance(answer, list) and answer and all(isinstance(a, Evidence) for a in answer):
        return [msgspec.structs.replace(a, check=check) for a in answer]
    if hasattr(answer, "item"):
        answer = answer.item()
    if isinstance(answer, bool):
        return [
            Evidence(
                check=check,
                figure=float(answer),
                n=n,
                details={"satisfied": "true"} if answer else {"fault": "the check said no"},
            )
        ]
    if isinstance(answer, int | float):
        return [Evidence(check=check, figure=float(answer), low=float(answer), high=float(answer), n=n)]
    if isinstance(answer, tuple) and len(answer) == 3:
        figure, low, high = (float(a) for a in answer)
        return [Evidence(check=check, figure=figure, low=low, high=high, n=n)]
    raise BadInput(
        f"check {rule.metric!r} answered {answer!r}",
        hint="return a number, (number, low, high), True or False, or Evidence",
    )
