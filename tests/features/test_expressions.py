"""``where`` on pushed rows: few or many, alone or in company, each row gets what the SQL engine says of a table of them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.backends.online_embedded import EmbeddedOnlineStore
from holdfast.core import definitions as d
from holdfast.core.errors import BadData, BadDefinition, HoldfastError
from holdfast.features import expressions, journal
from holdfast.features.lookup import Lookup, compile_plan
from holdfast.features.push import Pusher
from holdfast.features.rows import uniform
from holdfast.features.windows import view_plan

SCHEMA = {"k": int, "n": int, "x": float, "word": str, "yes": bool, "when": "timestamp"}
BASE = 1_700_000_000_000_000

VALUES: dict[str, list[Any]] = {
    "n": [None, 0, 1, -1, 2, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)],
    "x": [None, 0.0, -0.0, 1.0, 1.1, 2.5, -3.75, 1e308, 5e-324, float("inf"), float("-inf"), float("nan"), 2**53 + 1],
    "word": [None, "", "a", "A", "é", "z", "10", "2.5", "it's", "%", "a\x00b", "ß", "\U0001f600"],
    "yes": [None, True, False],
    "when": [None, datetime(1970, 1, 1, tzinfo=UTC), datetime(2023, 11, 14, 22, 13, 20, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)],
    "free": [None, 1, 2.5, "a", True, datetime(2024, 2, 29, tzinfo=UTC)],
    "Odd Name": [None, 1, 7],
    'a"b': [None, "q"],
}  # fmt: skip

EXPRESSIONS = [
    "n > 1", "n = 9007199254740993", "n >= 1.5", "x > 1", "x > 1.1", "x = n", "x <> x", "isnan(x)", "x = 'Infinity'", "word = 'A'", "word < 'b'",
    "lower(word) LIKE 'a%'", "word IN ('a', '10', NULL)", "length(word) > 1", "yes", "NOT yes", "yes = (n > 0)", "n", "when > TIMESTAMP '2000-01-01'",
    "year(\"when\") = 2023", "\"when\" > TIMESTAMPTZ '2000-01-01 00:00:00+02'", "hour(\"when\") = 22", "n IS NULL", "n IS NOT NULL AND x IS NULL",
    "n BETWEEN 0 AND 2", "coalesce(n, 5) > 4", "10 / n > 1", "10 // n > 1", "n % 2 = 1", "n + 1 > 0", "abs(n) > 1", "x > 1 OR CAST(word AS INTEGER) > 3",
    "x > 1 AND CAST(word AS DOUBLE) > 2", "CASE WHEN x > 1 THEN true ELSE CAST(word AS INTEGER) > 3 END", "TRY_CAST(word AS INTEGER) > 3",
    "\"Odd Name\" = 7", "\"odd name\" > 0", "\"a\"\"b\" = 'q'", "free = 1", "free IS NOT NULL", "free > 1", "free = 'a'", "pushed.n > 1", "N > 1", "X > 1 -- n",
    "n > (SELECT min(n) FROM pushed)", "row_number() OVER () = 1", "nothing > 1", "n >", "1", "true", "x > n AND word <> '' OR yes IS DISTINCT FROM NULL",
    "t > TIMESTAMPTZ '2023-11-14 22:13:20.000002+00'", "epoch_us(t) % 2 = 0", "regexp_matches(word, '[0-9]+')", "strftime(t, '%H') = '22'", "k = 1",
    "x::DECIMAL(10, 2) = 1.10", "n::VARCHAR = '1'", "list_contains([1, 2], n)", "word || 'x' = 'ax'", "n IN (1, 2.0)", "x IN (1, 2)", "COLUMNS(*) IS NULL",
]  # fmt: skip


KEYS = ["word || '-' || k", "lower(word)", "n", "n % 7", "k + 1", "coalesce(word, 'none')", "x > 1", "upper(\"Odd Name\"::VARCHAR)", "x", "t",
    "CAST(word AS INTEGER)", "n * 2", "word -- so", "nothing", "[1]", "x::DECIMAL(9, 1)", "hash(word)", "pushed", "'q'", "*",
    "date_trunc('day', t)::VARCHAR"]  # fmt: skip


def view(*wheres: str, schema: Any = None) -> d.FeatureView:
    source = d.Source("s", "s.parquet", timestamp="t", schema=SCHEMA if schema is None else schema)
    return d.FeatureView(
        "v",
        [d.Entity("k")],
        source,
        [d.Aggregation("n", ["count"], ["1d"], where=w, name=f"w{i}") for i, w in enumerate(wheres)],
    )


def said(work: Any, *arguments: Any) -> Any:
    try:
        return work(*arguments)
    except HoldfastError as error:
        return type(error), error.message


@pytest.mark.parametrize("declared", [True, False])
def test_a_few_rows_get_what_a_table_of_them_gets(declared: bool) -> None:
    rng = random.Random(11 + declared)
    quick = 0
    for i in range(150):
        some = [rng.choice(EXPRESSIONS) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        plan = view_plan(view(*some, schema=SCHEMA if declared else {"k": int}))
        keys = rng.sample(KEYS, rng.choice([0, 0, 1, 2]))
        plan["key_sql"] = dict(zip(keys, keys, strict=True))
        every = [*(("where", sql) for sql in dict.fromkeys(some)), *(("key", sql) for sql in keys)]
        rows = uniform([plan], [
            {"k": 1, "t": BASE + rng.randrange(5), **{c: rng.choice(v) for c, v in VALUES.items() if c == "n" or rng.random() < 0.8}}
            for _ in range(rng.choice([1, 1, 2, 5, 8]))
        ], arrived=BASE)  # fmt: skip
        whole = said(expressions._many, plan, rows, every)
        few = expressions._few(plan, rows, every)
        assert few is None or few == whole, (i, some, rows)
        quick += few is not None
        told = said(expressions.tell, [plan], rows)
        assert told == (whole if isinstance(whole, tuple) else {plan["version"]: dict(zip(every, whole, strict=True))})
    assert quick > 20


def test_columns_that_differ_in_case_only_are_told_by_the_table() -> None:
    plan = view_plan(view("n > 1"))
    row = {"k": 1, "t": BASE, "n": 1, "N": 5}
    asked = ("where", "n > 1")
    assert expressions._few(plan, [row], [asked]) is None
    assert expressions.tell([plan], [row])[plan["version"]][asked] == expressions._many(plan, [row], [asked])[0]


def test_views_share_what_they_both_ask_and_versions_of_another_schema_do_not() -> None:
    one, two = view_plan(view("n > 1", "x > 1")), view_plan(view("x > 1"))
    old = view_plan(view("x > '1'", schema={"k": int, "x": str, "n": int}))
    rows = [{"k": 1, "t": BASE, "n": 2, "x": "9"}]
    kept = expressions.tell([old], rows)
    assert kept == {old["version"]: {("where", "x > '1'"): [True]}}
    with pytest.raises(BadData, match="'x'"):
        expressions.tell([old, one, two], rows)


def test_a_row_that_an_expression_cannot_be_told_of_is_in_no_journal(tmp_path: Path) -> None:
    both = [
        view("CAST(word AS INTEGER) > 3"),
        d.FeatureView("other", [d.Entity("k")], view("true").source, [d.Field("n", int)]),
    ]
    with EmbeddedOnlineStore(tmp_path / "online", map_size=1 << 26) as online:
        row = {"k": 1, "t": BASE, "n": 1, "word": "four"}
        with Pusher(tmp_path, online, both) as pusher:
            with pytest.raises(BadData, match="CAST") as refused:
                pusher.push("s", [{**row, "word": "5"}, row], arrived=BASE)
            assert "TRY_CAST" in str(refused.value)
            with pytest.raises(BadData):
                pusher.push("s", [{**row, "word": "5"} for _ in range(20)] + [row], arrived=BASE)
            assert list(journal.read(tmp_path / "features" / "journal")) == []
            assert pusher.push("s", [{**row, "word": "5"}], arrived=BASE) == 1
        with Pusher(tmp_path, online, both):  # and it can be opened again
            asked = compile_plan(d.FeatureService("s", both))
            assert Lookup(asked, online).rows([{"k": 1}], at=[BASE]) == [{"v__w0_count_1d": 1, "other__n": 1}]


def test_undeclared_columns_of_mixed_values_are_no_accident(tmp_path: Path) -> None:
    free = view("word = 'a'", schema={"k": int})
    with (
        EmbeddedOnlineStore(tmp_path / "online", map_size=1 << 26) as online,
        Pusher(tmp_path, online, [free]) as pusher,
    ):
        rows = [{"k": 1, "t": BASE, "n": 1, "word": w, "free": f} for w, f in (("a", 1), ("b", "x"), ("a", 2.5))]
        assert pusher.push("s", rows, arrived=BASE) == 3
        assert Lookup(compile_plan(d.FeatureService("s", [free])), online).rows([{"k": 1}], at=[BASE]) == [
            {"v__w0_count_1d": 2}
        ]


def test_what_is_no_condition_is_the_definitions_mistake() -> None:
    plan = view_plan(view("nothing > 1", "n > 1"))
    with pytest.raises(BadDefinition, match="'nothing > 1'"):
        expressions.tell([plan], [{"k": 1, "t": BASE, "n": 1}])


def test_instants_are_utc_wherever_this_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    plan = view_plan(view('hour("when") = 22'))
    row = {"k": 1, "t": BASE, "n": 1, "when": datetime(2023, 11, 14, 22, 13, tzinfo=UTC)}
    later = {**row, "when": row["when"] + timedelta(hours=1)}  # type: ignore[operator]
    assert expressions.tell([plan], [row, later])[plan["version"]] == {("where", 'hour("when") = 22'): [True, False]}
