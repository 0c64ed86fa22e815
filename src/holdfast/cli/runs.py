"""``holdfast runs``: what was logged, side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.group import Group
from holdfast.cli.output import emit, json_option, table

if TYPE_CHECKING:
    from holdfast.core.tracking import Point, Run
    from holdfast.workspace import Workspace


@click.group(cls=Group)
def runs() -> None:
    """List, show, compare and plot tracked runs."""


@runs.command("list")
@click.option("--experiment", help="Only runs of this experiment.")
@click.option(
    "--filter", "where", default="", help="MLflow's filter, like: metrics.roc_auc > 0.8 AND params.depth = '3'"
)
@click.option("--order", multiple=True, help="Sort key, like: metrics.roc_auc DESC")
@click.option("--limit", type=click.IntRange(1, 50_000), default=50, show_default=True, help="At most so many.")
@json_option
def list_(experiment: str | None, where: str, order: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List runs, the newest first."""
    import msgspec

    from holdfast.core.errors import NotFound
    from holdfast.protocols.mlflow import filters

    with _workspace() as workspace:
        known = _experiments(workspace)
        if experiment is not None and experiment not in known.values():
            raise NotFound.among("experiment", experiment, known.values())
        ids = [i for i, name in known.items() if experiment in (None, name)]
        found, _ = workspace.runs.search_runs(
            ids, where=filters.parse(where, filters.RUNS), order=filters.parse_order(order, filters.RUNS), limit=limit
        )
    rows = [[r.run_id, r.name or None, known[r.experiment_id], r.status, _when(r.started), _metrics(r)] for r in found]
    emit(
        [msgspec.to_builtins(r) for r in found],
        as_json=as_json,
        text=lambda: table(["run", "name", "experiment", "status", "started", "metrics"], rows),
    )


@runs.command()
@click.argument("run_id")
@json_option
def show(run_id: str, as_json: bool) -> None:
    """Show all of one run."""
    import msgspec

    with _workspace() as workspace:
        run = _find(workspace, run_id)
        root = run.artifact_uri.removeprefix("mlflow-artifacts:").lstrip("/")
        files = workspace.runs.list_artifacts(root) if run.artifact_uri.startswith("mlflow-artifacts:") else []

    def text() -> None:
        click.secho(f"{run.run_id}  {run.name}", bold=True)
        click.echo(
            f"  {run.status}, {_when(run.started)} to {_when(run.ended) if run.ended else '…'}, by {run.user or '?'}"
        )
        if run.metrics:
            table(["metric", "value", "step"], [[m.key, m.value, m.step] for m in run.metrics])
        for kind, values in (("param", run.params), ("tag", run.tags)):
            if values:
                table([kind, "value"], [[k, v if len(v) <= 100 else v[:99] + "…"] for k, v in values.items()])
        if run.datasets:
            table(
                ["dataset", "digest", "context"],
                [[d.name, d.digest, d.tags.get("mlflow.data.context")] for d in run.datasets],
            )
        if files:
            table(["artifact", "bytes", "sha256"], [[f.path[len(root) + 1 :], f.size, f.sha256[:12]] for f in files])

    value = {**msgspec.to_builtins(run), "artifacts": [msgspec.to_builtins(f) for f in files]}
    emit(value, as_json=as_json, text=text)


@runs.command()
@click.argument("run_ids", nargs=-1, required=True)
@json_option
def compare(run_ids: tuple[str, ...], as_json: bool) -> None:
    """Runs side by side: every metric, and the params and environment that differ."""
    with _workspace() as workspace:
        found = [_find(workspace, r) for r in run_ids]
    metrics = {
        k: [next((m.value for m in r.metrics if m.key == k), None) for r in found] for k in _keys(found, "metrics")
    }
    params = {k: [r.params.get(k) for r in found] for k in _keys(found, "params")}
    marks = {k: [r.tags.get(k) for r in found] for k in _keys(found, "tags") if k.startswith("holdfast.") or "git" in k}
    differing = {k: v for k, v in {**params, **marks}.items() if len(set(v)) > 1}
    value = {"runs": [r.run_id for r in found], "metrics": metrics, "differing": differing}

    def text() -> None:
        heads = [r.name or r.run_id[:12] for r in found]
        table(["metric", *heads], [[k, *v] for k, v in metrics.items()])
        table(["differs", *heads], [[k, *(_short(x) for x in v)] for k, v in differing.items()])

    emit(value, as_json=as_json, text=text)


@runs.command()
@click.argument("run_ids", nargs=-1, required=True)
@click.option("--metric", "metrics", multiple=True, help="Only this metric.  [default: all that the runs have]")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with the curves.")
@json_option
def plot(run_ids: tuple[str, ...], metrics: tuple[str, ...], html: Path | None, as_json: bool) -> None:
    """The curves of metrics over steps: as a line of bars here, as a page with --html."""
    from holdfast.core.errors import NotFound

    with _workspace() as workspace:
        found = [_find(workspace, r) for r in run_ids]
        known = _keys(found, "metrics")
        for name in metrics:
            if name not in known:
                raise NotFound.among("metric", name, known)
        curves = {
            name: {r.run_id: workspace.runs.metric_history(r.run_id, name, limit=1_000_000)[0] for r in found}
            for name in metrics or known
        }
    if not curves:
        raise NotFound("these runs logged no metric", hint="`holdfast runs show RUN` lists what they have")
    names = {r.run_id: r.name or r.run_id[:12] for r in found}
    if html is not None:
        html.write_text(_page(curves, names), encoding="utf-8")

    def text() -> None:
        rows = [
            [metric, names[run], len(points), min(values), max(values), points[-1].value, _bars(values)]
            for metric, by_run in curves.items()
            for run, points in by_run.items()
            if (values := [p.value for p in points if math.isfinite(p.value)])
        ]
        table(["metric", "run", "points", "least", "most", "last", "curve"], rows)

    shown = {
        metric: {
            run: [{"step": p.step, "at": p.at, "value": p.value} for p in points] for run, points in by_run.items()
        }
        for metric, by_run in curves.items()
    }
    emit(shown, as_json=as_json, text=text)


def _bars(values: list[float], width: int = 40) -> str:
    """A curve as a line of block characters, each the mean of its share of the points."""
    count = min(width, len(values))
    cells = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    means = [sum(c) / len(c) for c in cells]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[min(7, int((m - low) / span * 8))] for m in means)


def _page(curves: dict[str, dict[str, list[Point]]], names: dict[str, str]) -> str:
    """The curves as one self-contained page."""
    from html import escape

    from holdfast.registry.plots import INK, OTHER, RING, Line, square

    colours = (INK, RING, OTHER, "#2b8a3e", "#a61e4d", "#5c940d")
    parts = []
    for metric, by_run in curves.items():
        lines = []
        for place, (run, points) in enumerate(by_run.items()):
            stepped = len({p.step for p in points}) > 1
            drawn = [(p.step if stepped else i, p.value) for i, p in enumerate(points) if math.isfinite(p.value)]
            lines.append(Line(drawn[:: max(1, len(drawn) // 500)], colours[place % len(colours)], names[run]))
        spots = [spot for line in lines for spot in line.points]
        if spots:
            x, y = zip(*spots, strict=True)
            parts.append(square(metric, "step", "value", lines, x=(min(x), max(x)), y=(min(y), max(y))))
    safe = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8>{safe}<title>{escape(', '.join(names.values()))}</title></head>"
        f"<body style='font:15px system-ui;display:flex;flex-wrap:wrap;gap:1.5rem'>{''.join(parts)}</body></html>"
    )


def _find(workspace: Workspace, run_id: str) -> Run:
    """A run by its id, or by the start of its id where that names one."""
    from holdfast.core.errors import BadInput, NotFound
    from holdfast.core.tracking import Clause

    try:
        return workspace.runs.get_run(run_id)
    except NotFound:
        if len(run_id) < 4 or "%" in run_id or "_" in run_id:
            raise
        start = Clause(kind="attribute", key="run_id", comparator="LIKE", value=run_id + "%")
        found, _ = workspace.runs.search_runs(list(_experiments(workspace)), where=[start], limit=2)
        if not found:
            raise
        if len(found) > 1:
            raise BadInput(f"{run_id!r} begins the id of more than one run", hint="give more of it") from None
        return found[0]


def _experiments(workspace: Workspace) -> dict[str, str]:
    found, _ = workspace.runs.search_experiments(limit=50_000)
    return {e.experiment_id: e.name for e in found}


def _workspace() -> Workspace:
    from holdfast.workspace import Workspace

    return Workspace.open(create=False)


def _keys(found: list[Run], what: str) -> list[str]:
    names: dict[str, Any] = {}
    for run in found:
        names.update(dict.fromkeys([m.key for m in run.metrics] if what == "metrics" else getattr(run, what)))
    return sorted(names)


def _metrics(run: Run) -> str | None:
    return ", ".join(f"{m.key}={m.value:.4g}" for m in run.metrics[:4]) or None


def _short(value: str | None) -> str | None:
    return value if value is None or len(value) <= 40 else value[:39] + "…"


def _when(at: int) -> str:
    from holdfast.core.identity import SECOND, iso

    return iso(at // SECOND * SECOND)
