"""Search against a brute-force reading of the same rows, pages that hold still, and texts that are no filters."""

import random
from typing import Any

import pytest

from holdfast.core.errors import BadInput
from holdfast.core.tracking import Clause, compare
from holdfast.protocols.mlflow import filters
from tests.protocols.mlflow.client import Api

SEED = 20240607
WORDS = ["a", "A", "ab", "a_b", "a%b", "ü", "", "x'y", 'x"y', "a\\b", "z"]
NUMBERS = [0.0, 1.0, -1.0, 2.5, 1e300, float("inf"), float("-inf"), float("nan")]


def populate(api: Api, dice: random.Random, count: int) -> tuple[str, list[dict[str, Any]]]:
    experiment = api.experiment(f"search {dice.random()}")
    rows = []
    for _ in range(count):
        row: dict[str, Any] = {"start": dice.randrange(5), "metrics": {}, "params": {}, "tags": {}}
        row["id"] = api.run(experiment, start_time=row["start"])
        for key in ("m", "n"):
            if dice.random() < 0.8:
                row["metrics"][key] = dice.choice(NUMBERS)
        for kind in ("params", "tags"):
            for key in ("p", "q r"):
                if dice.random() < 0.8:
                    row[kind][key] = dice.choice(WORDS)
        named = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
        api.post(
            "runs/log-batch",
            run_id=row["id"],
            metrics=[{"key": k, "value": named.get(str(v), v), "timestamp": 1} for k, v in row["metrics"].items()],
            params=[{"key": k, "value": v} for k, v in row["params"].items()],
            tags=[{"key": k, "value": v} for k, v in row["tags"].items()],
        )
        rows.append(row)
    return experiment, rows


def quoted(word: str) -> str:
    return '"' + word + '"' if '"' not in word else "'" + word.replace("'", "''") + "'"


def make_clause(dice: random.Random) -> tuple[str, Clause]:
    kind = dice.choice(["metrics", "params", "tags", "start"])
    if kind in ("metrics", "start"):
        comparator = dice.choice(["=", "!=", ">", ">=", "<", "<="])
        if kind == "start":
            value = dice.randrange(5)
            made = Clause(kind="attribute", key="start", comparator=comparator, value=value)  # type: ignore[arg-type]
            return f"start_time {comparator} {value}", made
        key, number = dice.choice(["m", "n"]), dice.choice([0.0, 1.0, 2.5, -3.5])
        made = Clause(kind="metric", key=key, comparator=comparator, value=number)  # type: ignore[arg-type]
        return f"metrics.{key} {comparator} {number}", made
    key = dice.choice(["p", "q r"])
    name = f"{kind}.`{key}`"
    comparator = dice.choice(["=", "!=", "LIKE", "ILIKE", "IS NULL", "IS NOT NULL"])
    kinds: Any = kind.removesuffix("s")
    if comparator.startswith("IS"):
        return f"{name} {comparator}", Clause(kind=kinds, key=key, comparator=comparator)  # type: ignore[arg-type]
    word = dice.choice(["a%", "%b", "_", "%", "a_b", *WORDS])
    made = Clause(kind=kinds, key=key, comparator=comparator, value=word)  # type: ignore[arg-type]
    return f"{name} {comparator} {quoted(word)}", made


def satisfies(row: dict[str, Any], clause: Clause) -> bool:
    if clause.kind == "attribute":
        return compare(clause, row["start"])
    return compare(clause, row[f"{clause.kind}s"].get(clause.key))


@pytest.mark.parametrize("rounds", [60, pytest.param(3000, marks=pytest.mark.soak)])
def test_a_search_finds_what_reading_every_row_finds(api: Api, rounds: int) -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    experiment, rows = populate(api, dice, 40)
    for _ in range(rounds):
        clauses = [make_clause(dice) for _ in range(dice.randrange(1, 4))]
        text = " AND ".join(t for t, _ in clauses)
        found = api.post("runs/search", experiment_ids=[experiment], filter=text).get("runs", [])
        expected = {r["id"] for r in rows if all(satisfies(r, c) for _, c in clauses)}
        assert {r["info"]["run_id"] for r in found} == expected, text


def test_pages_join_to_the_whole_in_order_whatever_the_keys(api: Api) -> None:
    dice = random.Random(SEED)
    experiment, _ = populate(api, dice, 30)
    keys = ["metrics.m", "metrics.n DESC", "params.p", "tags.`q r` DESC", "start_time ASC", "end_time", "run_name DESC"]
    for _ in range(8):
        order = dice.sample(keys, dice.randrange(0, 3))
        whole = [
            r["info"]["run_id"] for r in api.post("runs/search", experiment_ids=[experiment], order_by=order)["runs"]
        ]
        paged: list[str] = []
        token: dict[str, str] = {}
        while True:
            page = api.post("runs/search", experiment_ids=[experiment], order_by=order, max_results=7, **token)
            paged += [r["info"]["run_id"] for r in page.get("runs", [])]
            if "next_page_token" not in page:
                break
            token = {"page_token": page["next_page_token"]}
        assert paged == whole and len(set(whole)) == 30, order


def test_missing_and_nan_sort_last_in_both_directions(api: Api) -> None:
    experiment = api.experiment()
    values: dict[str, Any] = {"low": 1.0, "high": 2.0, "nan": "NaN", "none": None, "inf": "Infinity"}
    for name, value in values.items():
        run_id = api.run(experiment, run_name=name)
        if value is not None:
            api.post("runs/log-metric", run_id=run_id, key="m", value=value, timestamp=1)
    for direction, expected in (
        ("ASC", ["low", "high", "inf", "nan", "none"]),
        ("DESC", ["inf", "high", "low", "nan", "none"]),
    ):
        found = api.post("runs/search", experiment_ids=[experiment], order_by=[f"metrics.m {direction}"])["runs"]
        assert [r["info"]["run_name"] for r in found] == expected


def test_rows_added_between_pages_shift_nothing(api: Api) -> None:
    experiment = api.experiment()
    before = [api.run(experiment, start_time=t) for t in (1, 2, 3, 4)]
    first = api.post("runs/search", experiment_ids=[experiment], max_results=2)
    api.run(experiment, start_time=9)
    rest = api.post("runs/search", experiment_ids=[experiment], page_token=first["next_page_token"])
    seen = [r["info"]["run_id"] for r in first["runs"] + rest["runs"]]
    assert seen == before[::-1]


def test_a_token_serves_its_own_query_only(local: Api) -> None:
    for t in range(3):
        local.run(start_time=t)
    token = local.post("runs/search", experiment_ids=["0"], max_results=1)["next_page_token"]
    for body in ({"filter": "start_time > 0"}, {"order_by": ["run_name"]}, {"experiment_ids": ["1"]}):
        query = {"experiment_ids": ["0"], "page_token": token, **body}
        assert "page token" in local.post("runs/search", 400, **query)["message"]
    for nonsense in ("x", "e30", "W10", "ÿ", "A" * 10_000):
        local.post("runs/search", 400, experiment_ids=["0"], page_token=nonsense)


def test_experiments_and_views(api: Api) -> None:
    ids = {name: api.experiment(name, tags=[{"key": "k", "value": name}]) for name in ("a", "ab", "Abc")}

    def names(**query: Any) -> list[str]:
        return [e["name"] for e in api.post("experiments/search", **query).get("experiments", [])]

    assert names(filter="name LIKE 'a%'") == ["ab", "a"]
    assert names(filter="name ILIKE 'a%'") == ["Abc", "ab", "a"]
    assert names(filter="attribute.name != 'a'") == ["Abc", "ab", "Default"]
    assert names(filter="tags.k = 'ab'") == ["ab"] and names(filter="tags.k IS NULL") == ["Default"]
    assert names(filter=f"experiment_id IN ('{ids['a']}', '0')") == ["a", "Default"]
    assert names(order_by=["name DESC"]) == ["ab", "a", "Default", "Abc"]
    assert names(order_by=["experiment_id"]) == ["Default", "a", "ab", "Abc"]
    api.post("experiments/delete", experiment_id=ids["a"])
    assert "a" not in names() and names(view_type="DELETED_ONLY") == ["a"] and "a" in names(view_type="ALL")


@pytest.mark.parametrize(
    "text",
    [
        "metrics.m >", "metrics.m", "> 3", "metrics.m > 'x'", "params.p = 3", "params.p > 'x'", "nope.m = 1", "nope = 'x'",
        "metrics.m = 1 OR metrics.n = 2", "(metrics.m = 1)", "metrics.m = 1 AND", "AND", "run_id IN ()", "run_id IN ('a'",
        "run_name IN ('a')", "metrics.m IS NULL", "params.p = 'x'; DROP TABLE runs", "params.p = 'x' --", "params.p = 'x",
        "1=1", "metrics.m = 1 metrics.n = 2", "start_time > '1 OR 1=1'", "status LIKE 3", "tags. = 'x'", "metrics.m LIKE 'x'",
        "metrics.m = 1e400'", "start_time > 1e30", "\x00", "𝕏 = 1", "params.'p' = 'x'",
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused(local: Api, text: str) -> None:
    with pytest.raises(BadInput):
        filters.parse(text, filters.RUNS)
    error = local.post("runs/search", 400, experiment_ids=["0"], filter=text)
    assert error["error_code"] == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize("seed", range(3))
def test_random_text_never_breaks_the_parser(seed: int) -> None:
    dice = random.Random(SEED + seed)
    words = [
        "metrics",
        "params",
        ".",
        "m",
        "`a b`",
        "=",
        "!=",
        ">",
        "LIKE",
        "IN",
        "(",
        ")",
        ",",
        "'x'",
        '"y"',
        "3",
        "-1e5",
    ]
    pieces = [*words, "AND", "IS", "NOT", "NULL", "'", "\\", "ü", "\n"]
    for _ in range(3000):
        text = dice.choice(["", " "]).join(dice.choice(pieces) for _ in range(dice.randrange(12)))
        try:
            filters.parse(text, filters.RUNS)
        except BadInput:
            continue


def test_experiments_come_newest_first_and_stay_in_place_when_they_change(api: Api) -> None:
    ids = {name: api.experiment(name) for name in ("a", "b", "c")}
    api.post("experiments/delete", experiment_id=ids["b"])
    found = api.post("experiments/search", view_type="ALL", max_results=10)["experiments"]
    assert [e["name"] for e in found] == ["c", "b", "a", "Default"]


def test_logged_models_measured_on_a_dataset(api: Api) -> None:
    experiment = api.experiment()
    run_id = api.run(experiment)
    ids = [api.post("logged-models", experiment_id=experiment, name=n)["model"]["info"]["model_id"] for n in "ab"]
    api.post(
        "runs/log-metric", run_id=run_id, key="m", value=1.0, timestamp=1, model_id=ids[0], dataset_name="d", dataset_digest="1"
    )  # fmt: skip
    for datasets, names in (
        ([{"dataset_name": "d", "dataset_digest": "1"}], ["a"]), ([{"dataset_name": "d"}], ["a"]),
        ([{"dataset_name": "d", "dataset_digest": "2"}], []), ([{"dataset_name": "e"}, {"dataset_name": "d"}], ["a"]), ([], ["b", "a"]),
    ):  # fmt: skip
        found = api.post("logged-models/search", experiment_ids=[experiment], datasets=datasets).get("models", [])
        assert [m["info"]["name"] for m in found] == names, datasets
