"""What is compared here is what the SQL engine says, for every value there is; anything else is left to the engine."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from holdfast.core import definitions as d
from holdfast.core.errors import HoldfastError
from holdfast.core.records import Json
from holdfast.features import comparisons, expressions
from holdfast.features.rows import uniform
from holdfast.features.windows import view_plan

SCHEMA = {"k": int, "n": int, "x": float, "word": str, "yes": bool, "t": int, "value": float, "Case": int}
DTYPES = {
    "k": "int64",
    "n": "int64",
    "x": "float64",
    "word": "string",
    "yes": "bool",
    "value": "float64",
    "Case": "int64",
}
PLAN = view_plan(
    d.FeatureView("v", [d.Entity("k")], d.Source("s", "s.parquet", timestamp="t", schema=SCHEMA), [d.Field("n", int)])
)
INTEGERS = [None, 0, 1, -1, 2, 10, 2**53, 2**53 + 1, 10**15 - 1, 10**15, 2**63 - 1, -(2**63)]
FLOATS = [None, 0.0, -0.0, 1.0, 1.1, 1.1000000000000003, 1.0999999999999999, 2.5, -3.75, 0.1, 0.30000000000000004, 0.3, 1e15, 999999999999999.0,
    123456.789012345, 1e308, 5e-324, float("inf"), float("-inf"), float("nan")]  # fmt: skip
WORDS = [None, "", " ", "a", "A", "ab", "é", "z", "10", "it's", "\\n", "a\x00b", "ß", "\uffff", "\U0001f600", "a" * 40]
ROWS = uniform([PLAN], [
    {"k": 1, "t": i, "n": n, "x": x, "word": word, "yes": yes, "value": x, "Case": n}
    for i, (n, x, word, yes) in enumerate(itertools.chain(
        zip(INTEGERS * 2, FLOATS + [None] * 4, [*WORDS, *WORDS[:8]], [None, True, False] * 8, strict=True),
        itertools.product(INTEGERS[:4], FLOATS[:6], WORDS[:5], [True]),
    ))
], arrived=0)  # fmt: skip

NUMBERS = ["0", "1", "-1", "2", "10", "1.1", "-3.75", "0.1", "0.3", "2.5", "1.0", "999999999999999", "123456.789012345", "01", "00.30",
    "9007199254740993", "1000000000000000", "1e3", ".5", "1.", "1_000", "0x1", "-0", "-0.0", "+1", "- 1", "1.10000000000000000001"]  # fmt: skip
TEXTS = ["'a'", "''", "'A'", "'it''s'", "'é'", "'10'", "'\\n'", "'z'", "'\U0001f600'", "'\uffff'", "'a' 'b'", "'a'\n'b'", "E'a'",
     "\"a\"", "'a'''", "$$a$$"]  # fmt: skip
NAMES = ["n", "x", "word", "yes", "k", "value", "Case", "case", "N", "t", '"n"', "pushed.n", "s.n", "nothing"]
SIGNS = ["=", "<>", "!=", "<", "<=", ">", ">=", "==", "IS", "IS NOT", ">-", "<=>", "^", "!", "=-"]


def expression(rng: random.Random, depth: int = 0) -> str:
    kind = rng.random()
    if depth < 3 and kind < 0.45:
        word = rng.choice([" AND ", " OR ", " and ", "\nOr\t"])
        parts = [expression(rng, depth + 1) for _ in range(rng.randint(2, 3))]
        joined = word.join(parts)
        return f"({joined})" if rng.random() < 0.5 else joined
    if kind < 0.55:
        return f"{rng.choice(NAMES[:7])} IS {rng.choice(['', 'NOT '])}NULL"
    if kind < 0.9:
        name = rng.choice(["n", "x", "word", "k"])
        whole = [n for n in NUMBERS[:15] if "." not in n]
        constant = rng.choice({"word": TEXTS[:10], "x": NUMBERS[:15]}.get(name, whole))
        space = rng.choice(["", " "])
        return f"{name}{space}{rng.choice(SIGNS[:7])}{space}{constant}"
    return f"{rng.choice(NAMES)} {rng.choice(SIGNS)}{rng.choice(['', ' '])}{rng.choice(NUMBERS + TEXTS + ['NULL', 'n', 'true'])}"


def engine(asked: str) -> list[bool] | None:
    """What the engine says of every row; None where it is no condition."""
    try:
        return expressions._many(PLAN, ROWS, [("where", asked)])[0]
    except HoldfastError:
        return None


@pytest.mark.parametrize("seed", range(2))
def test_each_says_what_the_engine_says_of_every_row(seed: int) -> None:
    rng = random.Random(seed)
    compared = 0
    for _ in range(600):
        asked = expression(rng)
        found = comparisons.read(asked, DTYPES)
        if found is None:
            continue
        said = engine(asked)
        if said is None:
            continue  # it is asked first, and what it refuses is refused
        assert [found.told(row) is True for row in ROWS] == said, asked
        compared += 1
    assert compared > 200


def test_every_comparison_of_every_type() -> None:
    for name, constants in (("n", NUMBERS), ("x", NUMBERS), ("word", TEXTS)):
        for sign, constant in itertools.product(SIGNS, constants):
            asked = f"{name} {sign} {constant}"
            found = comparisons.read(asked, DTYPES)
            said = engine(asked) if found is not None else None
            assert said is None or [found.told(row) is True for row in ROWS] == said, asked  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "asked",
    ["n > 1.5", "n = 9007199254740993", "x > 1e3", "yes", "yes = true", "NOT n > 1", "n > x", "n + 1 > 2", "word LIKE 'a%'", "n IN (1, 2)",
        "n BETWEEN 1 AND 2", "word > 5", "n > '5'", "lower(word) = 'a'", "n::INT > 1", "n > 1 -- so", "n > 1;", "n > 1 n", "(n > 1", "n > 1)", "",
        "x = 'NaN'", "word = NULL", "n > 1 AND", "coalesce(n, 1) > 0", "\"n\" > 1", "pushed.n > 1", "(" * 5000],
)  # fmt: skip
def test_anything_else_is_left_to_the_engine(asked: str) -> None:
    assert comparisons.read(asked, DTYPES) is None


def here(asked: str, rows: list[Json]) -> dict[str, list[bool]]:
    return {sql: said for (_, sql), said in expressions._here(PLAN, rows, [("where", asked)]).items()}


def test_the_engine_is_asked_first_and_whenever_rows_are_not_as_declared() -> None:
    asked = "n > 1 AND x <= 2.5 AND word <> 'z'"
    row: dict[str, Any] = {"k": 1, "t": 1, "n": 2, "x": 1.0, "word": "a", "yes": None, "value": 1.0, "Case": 1}
    plan = {**PLAN, "values": [{"where": asked}]}
    assert here(asked, [row]) == {}
    assert expressions.tell([plan], [row])[PLAN["version"]] == {("where", asked): [True]}
    assert here(asked, [row, {**row, "n": None}]) == {asked: [True, False]}
    assert (
        here(asked, [{**row, "n": True}]) == here(asked, [{**row, "x": 1}]) == here(asked, [{**row, "word": 1}]) == {}
    )
    assert (
        here(asked, [{**row, "more": 1}]) == here(asked, [row, {**row, "more": 1}]) == here(asked, [row] * 1000) == {}
    )
    assert expressions.tell([plan], [row] * 1000)[PLAN["version"]] == {("where", asked): [True] * 1000}
    twice = {**row, "N": 0}
    assert expressions.tell([plan], [twice]) == expressions.tell([plan], [twice]) and here(asked, [twice]) == {}


@pytest.mark.parametrize(("asked", "learnt"), [("n > 2", True), ("value > 2", False), ("t IS NULL", False)])
def test_names_that_are_also_words_of_sql_or_instants_stay_with_the_engine(asked: str, learnt: bool) -> None:
    row = {name: ROWS[0][name] for name in ROWS[0]}
    expressions.tell([{**PLAN, "values": [{"where": asked}]}], [row])
    assert bool(here(asked, [row])) is learnt
