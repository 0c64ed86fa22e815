"""``holdfast init``: a project that runs, in the current folder or a new one."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.cli.output import say

TOML = """# Where things live. Every key has a default; `holdfast config` shows them all and where each value came from.
definitions = "definitions"

# The same project on shared services: holdfast --env shared …
# [environments.shared]
# ledger.url = "postgresql://holdfast@db/holdfast"
# runs.url = "postgresql://holdfast@db/holdfast"
# objects.url = "s3://bucket/holdfast"
# online.url = "redis://cache:6379/0"
"""

DEFINITIONS = '''"""{name}: what Holdfast needs to know. Change the names, then: holdfast data add data/events.csv && holdfast train {name}"""

import holdfast as hf

events = hf.Source("events", "data/events.csv", timestamp="happened_at", arrival="known_at")
customer = hf.Entity("customer", join_keys=["customer_id"])

activity = hf.FeatureView("activity", [customer], events, [
    hf.Aggregation("amount", ["count", "mean"], windows=["1d", "7d"]),
])


@hf.on_demand
def amount_ratio(amount, activity__amount_mean_7d):
    """This amount against the customer's week."""
    return amount / activity__amount_mean_7d


features = hf.FeatureService("{name}_features", [activity, amount_ratio], request={{"amount": float}})


@hf.model("{name}", features=features, spine=events, label=hf.Label(events, "label", key="event_id"))
def train(data, params):
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=50).fit(data.X, data.y)


service = hf.Service("{name}", model=train, gate=hf.Gate(hf.at_least("roc_auc", 0.6), hf.deterministic(), hf.latency(mean="50ms")))
'''


@click.command()
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", help="Name of the model and its service.  [default: the folder's]")
def init(folder: Path | None, name: str | None) -> None:
    """Scaffold a project in FOLDER (the current one by default): settings, definitions, a small table of made-up events,
    all of which runs as it is. Nothing that is already there is touched."""
    import re
    import shlex

    from holdfast.core import files
    from holdfast.core.errors import Conflict
    from holdfast.core.identity import check_name

    root = (folder or Path.cwd()).resolve()
    name = check_name(name or re.sub(r"[^A-Za-z0-9_]", "_", root.name).strip("_") or "model", "model")
    wanted = {
        "holdfast.toml": TOML,
        "definitions.py": DEFINITIONS.format(name=name),
        "data/events.csv": _events(),
        ".gitignore": ".holdfast/\n__pycache__/\n",
    }
    there = [path for path in ("holdfast.toml", "definitions.py") if (root / path).exists()]
    if there:
        raise Conflict(
            f"{root} has a {there[0]} already",
            hint="nothing was changed; choose an empty folder, or use the project as it is",
        )
    root.mkdir(parents=True, exist_ok=True)
    for path, text in wanted.items():
        target = root / path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            files.write(target, text.encode())
            say(f"wrote {target.relative_to(root)}")
    where = "" if root == Path.cwd() else f"cd {shlex.quote(str(root))} && "
    say(
        f"next: {where}git init -q && holdfast data add data/events.csv && holdfast train {name} && holdfast check {name}@latest"
    )


def _events(rows: int = 4000) -> str:
    """Made-up events, the same each time: amounts by customer, a label that depends on the amount and the customer."""
    import random
    from datetime import UTC, datetime, timedelta

    rng = random.Random(7)
    habit = {c: rng.uniform(10, 200) for c in range(1, 101)}
    lines = ["event_id,customer_id,happened_at,known_at,amount,label"]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(1, rows + 1):
        at += timedelta(minutes=rng.expovariate(1 / 15))
        customer = rng.randint(1, 100)
        amount = round(rng.lognormvariate(0, 0.6) * habit[customer], 2)
        label = int(rng.random() < (0.6 if amount > 2 * habit[customer] else 0.08))
        known = at + timedelta(minutes=rng.randint(1, 600))
        lines.append(f"{number},{customer},{at:%Y-%m-%dT%H:%M:%SZ},{known:%Y-%m-%dT%H:%M:%SZ},{amount},{label}")
    return "\n".join(lines) + "\n"
