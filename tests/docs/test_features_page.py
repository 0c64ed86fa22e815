"""docs/features.md: its Python is run in a scaffolded project, its commands are commands, its addresses are the server's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.csv as csv
import pytest
from click.testing import CliRunner

from holdfast.cli.main import cli
from holdfast.core.definitions import FeatureService, FeatureView, Source
from holdfast.core.project import load
from holdfast.protocols.feast import routes, translate

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "features.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)


def block(word: str) -> str:
    (found,) = [b for b in BLOCKS if word in b]
    return str(found)


def test_features_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["init", "--name", "churn"], ["features", "apply"], ["features", "materialize"]):
        done = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    events = csv.read_csv("data/events.csv").slice(0, 20)
    spine = pa.table(
        {
            "event_timestamp": events.column("happened_at"),
            "customer_id": events.column("customer_id"),
            "amount": events.column("amount"),
        }
    )
    (view,) = load(tmp_path).feature_services["churn_features"].views
    scope: dict[str, Any] = {"spine": spine, "views_alone": FeatureService("views_alone", [view])}
    exec(block("get_historical_features"), scope)
    assert scope["rows"].num_rows == 20 and "amount_ratio" in scope["rows"].column_names
    customers = set(csv.read_csv("data/events.csv").column("customer_id").to_pylist())
    assert set(scope["everybody"].column("customer_id").to_pylist()) <= customers
    (row,) = scope["now"]
    assert set(row) == set(scope["rows"].column_names) - {"event_timestamp", "customer_id"}


def test_the_definitions_are_ones() -> None:
    import numpy as np

    scope: dict[str, Any] = {}
    exec(block("hf.Label("), scope)
    assert scope["features"].columns() == [
        "profile__tenure_months", "profile__spent_sum_7d", "profile__spent_count_7d", "profile__spent_sum_30d",
        "profile__spent_count_30d", "is_pro",
    ]  # fmt: skip
    given = scope["is_pro"].function(np.array(["pro", None], dtype=object))
    assert given.tolist() == [1.0, 0.0] and scope["label"].key == ("client_id", "seen_at")


def test_a_query_can_be_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "x")
    import holdfast as hf

    scope: dict[str, Any] = {"hf": hf}
    exec(block("postgresql://"), scope)
    assert isinstance(scope["orders"], Source) and scope["orders"].query
    schedule = re.search(r"`hf\.FeatureView\(…, (.*?)\)`", PAGE)
    assert schedule is not None
    options = eval(f"dict({schedule[1]})")
    view = FeatureView("v", [hf.Entity("k")], scope["orders"], [hf.Field("amount", float)], **options)
    assert view.materialize == options["materialize"] and view.zone == options["zone"]


@pytest.mark.parametrize(
    "words", sorted(set(re.findall(r"`holdfast ((?:features|data|loop|monitor) [a-z-]+|up)", PAGE)))
)
def test_the_commands_are_commands(words: str) -> None:
    command: click.Command | None = cli
    context = click.Context(cli, info_name="holdfast")
    for word in words.split():
        assert isinstance(command, click.Group), words
        command = command.get_command(context, word)
        assert command is not None, words
        context = click.Context(command, info_name=word, parent=context)


def test_the_addresses_and_limits_are_the_servers() -> None:
    section = PAGE.split("## The feature server")[1].split("\n## ")[0]
    server = routes.FeatureServer(None, routes.Definitions({}, {}), pusher=None)  # type: ignore[arg-type]
    assert set(re.findall(r"`(/[a-z-]+)`", section)) == {path for _, path in server._routes}
    assert f"{routes.LIMITS.body >> 20} MB" in section and f"{translate.MOST_ROWS:,} rows" in section
