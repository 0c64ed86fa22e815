"""What models, stages and aliases may be called: wider than definitions' names, as MLflow's clients expect."""

from __future__ import annotations

import re
import unicodedata

from holdfast.core.errors import BadInput

STAGES = ("None", "Staging", "Production", "Archived")
ACTIVE_STAGES = ("Staging", "Production")
PROTECTED_ALIASES = ("champion",)
MAX_NAME = 256
MAX_ALIAS = 255

_ALIAS = re.compile(r"[\w-]+\Z", re.ASCII)
_VERSION_LIKE = re.compile(r"v?\d+\Z", re.IGNORECASE)


def check_model_name(name: object) -> str:
    """A registered model's name: text without ``/``, ``:``, ``@`` or control characters, at most 256 characters.

    Raises:
        BadInput: it is not.
    """
    if not isinstance(name, str) or not name.strip():
        raise BadInput("Registered model name cannot be empty.", hint="give the model a name")
    if len(name) > MAX_NAME:
        raise BadInput(f"Registered model name is {len(name)} characters long; at most {MAX_NAME} are allowed")
    bad = next((c for c in name if c in "/:@\\" or unicodedata.category(c) in ("Cc", "Cs")), None)
    if bad is not None or name in (".", ".."):
        raise BadInput(
            f"Invalid name: {name!r}. Registered model name cannot contain {bad!r}",
            hint="names go into URIs and paths: leave out /, :, @, \\ and control characters",
        )
    return name


def check_stage(stage: object) -> str:
    """The stage in its canonical spelling.

    Raises:
        BadInput: no such stage.
    """
    known = {s.lower(): s for s in STAGES}
    found = known.get(stage.lower()) if isinstance(stage, str) else None
    if found is None:
        raise BadInput(
            f"Invalid Model Version stage: {stage}. Value must be one of {', '.join(STAGES)}.",
            hint="stages are None, Staging, Production, Archived",
        )
    return found


def check_alias(alias: object) -> str:
    """An alias: letters, digits, ``_`` and ``-``, at most 255; not a version number, a stage, or ``latest``, which
    would make ``name@alias`` mean two things.

    Raises:
        BadInput: it is not.
    """
    if not isinstance(alias, str) or not alias:
        raise BadInput("Registered model alias name cannot be empty.")
    if len(alias) > MAX_ALIAS:
        raise BadInput(
            f"Registered model alias name '{alias[:40]}…' had length {len(alias)}, "
            f"which exceeded length limit of {MAX_ALIAS}"
        )
    if not _ALIAS.match(alias):
        raise BadInput(
            f"Invalid alias name: '{alias}'. Names may only contain alphanumerics, underscores (_), dashes (-)."
        )
    if alias.lower() == "latest":
        raise BadInput("'latest' alias name (case insensitive) is reserved.")
    if _VERSION_LIKE.match(alias):
        raise BadInput(f"Version alias name '{alias}' is reserved.")
    if alias.lower() in {s.lower() for s in STAGES}:
        raise BadInput(f"'{alias}' is the name of a stage and cannot be an alias")
    return alias


def is_protected(alias: str, protected: tuple[str, ...] = PROTECTED_ALIASES) -> bool:
    """Whether moving the alias is an approval. Case is ignored, so no spelling slips past."""
    return alias.casefold() in {p.casefold() for p in protected}
