"""MLflow's filter and order grammar, parsed into clauses; nothing of the text reaches a database.

``clause (AND clause)*``; a clause is ``[kind.]key comparator value``. Strings stand in single or double quotes, keys
with odd characters in backticks or double quotes. Facts of the grammar: MLflow's documentation of its search API.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from holdfast.core.errors import BadInput
from holdfast.core.tracking import Clause, Comparator, Kind, Order

MAX_FILTER = 50_000
MAX_CLAUSES = 100
_SCALE = 1000  # milliseconds in filters, microseconds in the store

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>'(?:[^']|'')*'|"[^"]*")
    | (?P<tick>`[^`]*`)
    | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<comparator>!=|<>|>=|<=|=|>|<)
    | (?P<mark>[(),.])
    | (?P<word>[^\s'"`(),.=<>!]+)
    )""",
    re.VERBOSE | re.DOTALL,
)

AttributeType = Literal["string", "number", "time"]


class Attribute(msgspec.Struct, frozen=True):
    """One searchable attribute: the store's name for it, its type, whether IN works on it."""

    field: str
    type: AttributeType = "string"
    members: bool = False


class Grammar(msgspec.Struct, frozen=True):
    """What one kind of search accepts. ``kinds`` maps a prefix to a clause kind."""

    what: str
    attributes: Mapping[str, Attribute]
    kinds: Mapping[str, Kind]
    orders: Mapping[str, str]
    null_tests: bool = True


_METRIC: dict[str, Kind] = {"metric": "metric", "metrics": "metric"}
_PARAM: dict[str, Kind] = {"param": "param", "params": "param", "parameter": "param", "parameters": "param"}
_TAG: dict[str, Kind] = {"tag": "tag", "tags": "tag"}
_ATTRIBUTE: dict[str, Kind] = {"attribute": "attribute", "attributes": "attribute", "attr": "attribute"}
_DATASET: dict[str, Kind] = {"dataset": "dataset", "datasets": "dataset"}

_RUN_ATTRIBUTES = {
    "run_id": Attribute("run_id", members=True),
    "run_name": Attribute("name"),
    "run name": Attribute("name"),
    "Run name": Attribute("name"),
    "Run Name": Attribute("name"),
    "user_id": Attribute("user"),
    "User": Attribute("user"),
    "status": Attribute("status"),
    "artifact_uri": Attribute("artifact_uri"),
    "start_time": Attribute("started", "time"),
    "created": Attribute("started", "time"),
    "Created": Attribute("started", "time"),
    "end_time": Attribute("ended", "time"),
}
RUNS = Grammar(
    "runs",
    _RUN_ATTRIBUTES,
    {**_METRIC, **_PARAM, **_TAG, **_ATTRIBUTE, **_DATASET, "run": "attribute"},
    {name: a.field for name, a in _RUN_ATTRIBUTES.items()},
)
_EXPERIMENT_ATTRIBUTES = {
    "name": Attribute("name"),
    "experiment_id": Attribute("experiment_id", members=True),
    "creation_time": Attribute("created", "time"),
    "last_update_time": Attribute("updated", "time"),
}
EXPERIMENTS = Grammar(
    "experiments",
    _EXPERIMENT_ATTRIBUTES,
    {**_TAG, **_ATTRIBUTE},
    {"name": "name", "experiment_id": "number", "creation_time": "created", "last_update_time": "updated"},
)
REGISTERED_MODELS = Grammar(
    "registered models",
    {"name": Attribute("name", members=True)},
    {**_TAG, **_ATTRIBUTE},
    {
        "name": "name",
        "creation_timestamp": "at",
        "creation_time": "at",
        "last_updated_timestamp": "updated",
        "timestamp": "updated",
    },
)
_VERSION_ATTRIBUTES = {
    "name": Attribute("name", members=True),
    "version_number": Attribute("version", "number"),
    "run_id": Attribute("run_id", members=True),
    "source_path": Attribute("source"),
}
MODEL_VERSIONS = Grammar(
    "model versions",
    _VERSION_ATTRIBUTES,
    {**_TAG, **_ATTRIBUTE},
    {
        "name": "name",
        "version_number": "version",
        "creation_timestamp": "at",
        "creation_time": "at",
        "last_updated_timestamp": "updated",
        "timestamp": "updated",
    },
)
_MODEL_ATTRIBUTES = {
    "name": Attribute("name", members=True),
    "model_id": Attribute("model_id", members=True),
    "model_type": Attribute("model_type"),
    "status": Attribute("status", members=True),
    "source_run_id": Attribute("run_id", members=True),
    "creation_time": Attribute("created", "time"),
    "creation_timestamp": Attribute("created", "time"),
    "last_updated_time": Attribute("updated", "time"),
    "last_updated_timestamp": Attribute("updated", "time"),
}
LOGGED_MODELS = Grammar(
    "logged models",
    _MODEL_ATTRIBUTES,
    {**_METRIC, **_PARAM, **_TAG, **_ATTRIBUTE},
    {name: a.field for name, a in _MODEL_ATTRIBUTES.items()},
)

_STRING_COMPARATORS = ("=", "!=", "LIKE", "ILIKE")
_NUMBER_COMPARATORS = ("=", "!=", ">", ">=", "<", "<=")


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str


def parse(text: str, grammar: Grammar) -> list[Clause]:
    """The clauses of a filter; empty text has none.

    Raises:
        BadInput: it does not follow the grammar; the text says where.
    """
    if len(text) > MAX_FILTER:
        raise BadInput(f"Invalid filter: {len(text)} characters, at most {MAX_FILTER} are allowed")
    tokens = _tokens(text)
    clauses: list[Clause] = []
    place = 0
    while place < len(tokens):
        clause, place = _clause(tokens, place, grammar, text)
        clauses.append(clause)
        if len(clauses) > MAX_CLAUSES:
            raise BadInput(f"Invalid filter: more than {MAX_CLAUSES} clauses")
        if place < len(tokens):
            if not _is_word(tokens, place, "AND"):
                raise _bad(text, f"expected AND, found {tokens[place].text!r}; only conjunctions are supported")
            place += 1
            if place == len(tokens):
                raise _bad(text, "nothing follows AND")
    return clauses


def parse_order(items: Sequence[str], grammar: Grammar) -> list[Order]:
    """The sort keys of an ``order_by`` list: ``key [ASC|DESC]`` each.

    Raises:
        BadInput: not a sort key; the text names those there are.
    """
    if len(items) > 20:
        raise BadInput(f"Invalid order_by: {len(items)} keys, at most 20 are allowed")
    return [_order(item, grammar) for item in items]


def order_by_field(name: str, ascending: bool, grammar: Grammar) -> Order:
    """One sort key given as a field name (how logged models are sorted): ``metrics.f1``, ``creation_timestamp``."""
    return _order(name + (" ASC" if ascending else " DESC"), grammar)


def _order(item: str, grammar: Grammar) -> Order:
    tokens = _tokens(item)
    ascending = True
    if tokens and tokens[-1].kind == "word" and tokens[-1].text.upper() in ("ASC", "DESC"):
        ascending = tokens[-1].text.upper() == "ASC"
        tokens = tokens[:-1]
    if not tokens:
        raise BadInput(f"Invalid order_by clause '{item}'.", hint="write it like: metrics.f1 DESC")
    # "Run Name" and the like are attributes with a space.
    spaced = " ".join(t.text for t in tokens)
    if all(t.kind == "word" for t in tokens) and spaced in grammar.orders:
        return Order(kind="attribute", key=grammar.orders[spaced], ascending=ascending)
    kind, key, place = _key(tokens, 0, grammar, item)
    if place != len(tokens):
        raise BadInput(f"Invalid order_by clause '{item}'. Could not be parsed.", hint="write it like: metrics.f1 DESC")
    if kind == "attribute":
        if key not in grammar.orders:
            known = sorted(grammar.orders)
            raise BadInput(f"Invalid order by key '{key}' specified. Valid keys are {known}")
        key = grammar.orders[key]
    return Order(kind=kind, key=key, ascending=ascending)


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    place = 0
    end = len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            raise _bad(text, f"cannot be read from {text[place : place + 20]!r} on")
        tokens.append(_Token(match.lastgroup, match[match.lastgroup]))
        place = match.end()
    return tokens


def _clause(tokens: list[_Token], place: int, grammar: Grammar, text: str) -> tuple[Clause, int]:
    kind, key, place = _key(tokens, place, grammar, text)
    comparator, place = _comparator(tokens, place, text)
    attribute: Attribute | None = None
    if kind == "attribute":
        attribute = grammar.attributes.get(key)
        if attribute is None:
            known = sorted(grammar.attributes)
            raise BadInput(f"Invalid attribute key '{key}' specified. Valid keys are '{known}'")
    if comparator in ("IS NULL", "IS NOT NULL"):
        if kind not in ("tag", "param"):
            raise _bad(text, f"{comparator} works on tags and params, not on {kind} {key!r}")
        return Clause(kind=kind, key=key, comparator=comparator), place
    numeric = kind == "metric" or (attribute is not None and attribute.type != "string")
    members = kind == "dataset" or (attribute is not None and attribute.members)
    if comparator in ("IN", "NOT IN"):
        if not members:
            raise BadInput(
                f"Invalid comparator '{comparator}' for {kind} '{key}': IN works on "
                f"{sorted(n for n, a in grammar.attributes.items() if a.members)} only"
            )
        values, place = _list(tokens, place, text)
        field = attribute.field if attribute else key
        return Clause(kind=kind, key=field, comparator=comparator, value=values), place
    allowed = _NUMBER_COMPARATORS if numeric else _STRING_COMPARATORS
    if comparator not in allowed:
        raise BadInput(f"Invalid comparator '{comparator}' not one of '{sorted(allowed)}' for {kind} '{key}'")
    if place >= len(tokens):
        raise _bad(text, f"a value is missing after {comparator}")
    token = tokens[place]
    value: str | int | float
    if numeric:
        value = _number(token, kind, key, attribute)
    elif token.kind == "string":
        value = _unquote(token.text)
    else:
        raise BadInput(
            f"Expected a quoted string value for {kind} (e.g. 'my-value'). Got value {token.text} for '{key}'"
        )
    return Clause(kind=kind, key=attribute.field if attribute else key, comparator=comparator, value=value), place + 1


def _key(tokens: list[_Token], place: int, grammar: Grammar, text: str) -> tuple[Kind, str, int]:
    """(kind, key, next place). A key runs over dots and words until a comparator or the end."""
    if place >= len(tokens):
        raise _bad(text, "a key is missing")
    first = tokens[place]
    if first.kind == "comparator" or first.kind == "mark":
        raise _bad(text, f"a key is missing before {first.text!r}")
    dotted = place + 1 < len(tokens) and tokens[place + 1].text == "." and tokens[place + 1].kind == "mark"
    if dotted and first.kind == "word":
        kind = grammar.kinds.get(first.text)
        if kind is None:
            known = sorted(set(grammar.kinds))
            raise BadInput(f"Invalid entity type '{first.text}'. Valid values are {known}")
        key, place = _name(tokens, place + 2, text)
        return kind, key, place
    key, place = _name(tokens, place, text)
    return "attribute", key, place


def _name(tokens: list[_Token], place: int, text: str) -> tuple[str, int]:
    if place >= len(tokens):
        raise _bad(text, "a key is missing")
    token = tokens[place]
    if token.kind == "tick":
        return token.text[1:-1], place + 1
    if token.kind == "string":
        if token.text.startswith("'"):
            raise _bad(text, f"a key stands in backticks or double quotes, not in {token.text}")
        return _unquote(token.text), place + 1
    parts: list[str] = []
    while place < len(tokens) and (tokens[place].kind in ("word", "number") or tokens[place].text == "."):
        following = tokens[place]
        if parts and parts[-1] != "." and following.text != "." and following.kind != "number":
            break
        parts.append(following.text)
        place += 1
    if not parts or parts[-1] == ".":
        raise _bad(text, "a key is missing or ends in a dot")
    return "".join(parts), place


def _comparator(tokens: list[_Token], place: int, text: str) -> tuple[Comparator, int]:
    if place >= len(tokens):
        raise _bad(text, "a comparator is missing")
    token = tokens[place]
    if token.kind == "comparator":
        simple: Any = "!=" if token.text == "<>" else token.text
        return simple, place + 1
    word = token.text.upper() if token.kind == "word" else ""
    if word in ("LIKE", "ILIKE", "IN"):
        known: Any = word
        return known, place + 1
    if word == "NOT" and _is_word(tokens, place + 1, "IN"):
        return "NOT IN", place + 2
    if word == "IS" and _is_word(tokens, place + 1, "NULL"):
        return "IS NULL", place + 2
    if word == "IS" and _is_word(tokens, place + 1, "NOT") and _is_word(tokens, place + 2, "NULL"):
        return "IS NOT NULL", place + 3
    raise _bad(text, f"{token.text!r} is no comparator")


def _list(tokens: list[_Token], place: int, text: str) -> tuple[list[str], int]:
    if place >= len(tokens) or tokens[place].text != "(":
        raise _bad(text, "a list in parentheses must follow IN")
    values: list[str] = []
    place += 1
    while True:
        if place >= len(tokens) or tokens[place].kind != "string":
            raise BadInput(
                f"Invalid filter '{text[:200]}': while parsing a list in the query, expected quoted strings, "
                "and a list may not be empty"
            )
        values.append(_unquote(tokens[place].text))
        place += 1
        if place < len(tokens) and tokens[place].text == ",":
            place += 1
        elif place < len(tokens) and tokens[place].text == ")":
            return values, place + 1
        else:
            raise _bad(text, "a list must end in )")


def _number(token: _Token, kind: str, key: str, attribute: Attribute | None) -> int | float:
    text = _unquote(token.text) if token.kind == "string" else token.text
    try:
        value = float(text) if token.kind in ("number", "string") else None
    except ValueError:
        value = None
    if value is None:
        raise BadInput(f"Expected numeric value type for {kind} '{key}'. Found {token.text}")
    if attribute is None:
        return value
    scaled = value * (_SCALE if attribute.type == "time" else 1)
    if not -(2.0**63) < scaled < 2.0**63:
        raise BadInput(f"{token.text} is out of range for '{key}'")
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text) * (_SCALE if attribute.type == "time" else 1)
    return scaled


def _unquote(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        inner = text[1:-1]
        return inner.replace("''", "'") if text[0] == "'" else inner
    return text


def _is_word(tokens: list[_Token], place: int, word: str) -> bool:
    return place < len(tokens) and tokens[place].kind == "word" and tokens[place].text.upper() == word


def _bad(text: str, why: str) -> BadInput:
    shown = text if len(text) <= 200 else text[:200] + "…"
    return BadInput(f"Invalid filter '{shown}': {why}", hint="write it like: metrics.f1 > 0.9 AND params.kind = 'tree'")
