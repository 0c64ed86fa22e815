"""``holdfast trace`` and ``holdfast why``: from a prediction back to bytes and commit; why a cycle ran."""

from __future__ import annotations

from typing import Any

import click

from holdfast.cli.output import emit, json_option


@click.command()
@click.argument("prediction")
@json_option
def trace(prediction: str, as_json: bool) -> None:
    """Walk from one PREDICTION (its id) back to release, model version, run, training set, features, data, commit."""
    from holdfast.lifecycle import trace as tracing
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as ws:
        found = tracing.prediction(ws, prediction)
    emit(found, as_json=as_json, text=lambda: _draw(found))


def _draw(found: dict[str, Any]) -> None:
    from holdfast.core.identity import iso

    p, v = found["prediction"], found["version"]
    _line("prediction", f"{p['id']}  score {shown(p['score'])} → {p['output']}  ({p['arm']}, {iso(p['request_time'])})")
    if found.get("label"):
        _line("label", f"{found['label']['value']}  known {iso(found['label']['at'])}")
    if found["release"]:
        r = found["release"]
        _line("release", f"{p['service']} #{r['sequence']}  since {iso(r['at'])}  ({r['reason']})")
    _line("model version", f"{v['name']}@{v['version']}  content {v['content'][:16]}…  stage {v['stage']}")
    if found["verdict"]:
        _line("verdict", f"{found['verdict']['outcome']}  {iso(found['verdict']['at'])}")
    if found.get("run"):
        r = found["run"]
        known = [f"seed {r['seed']}"] if r.get("seed") is not None else []
        known += [f"environment {r['environment'][:16]}…"] if r.get("environment") else []
        _line("run", "  ".join([r["id"], *known] if r["here"] else [r["id"], "is not in this store"]))
    elif v["source"]:
        _line("made from", f"{v['source']}, without a run")
    if found.get("training_set"):
        t = found["training_set"]
        _line("training set", f"{t['digest'][:16]}…  {t['rows']:,} rows  {iso(t['start'])} – {iso(t['end'])}")
        for name, version in sorted(found["features"].items()):
            _line("  feature", f"{name}@{version[:12]}")
        for name, data in sorted(found["datasets"].items()):
            more = f"  md5 {data['md5']}" if data.get("md5") else ""
            _line("  dataset", f"{name}  sha256 {data['sha256'][:16]}…{more}")
    if found.get("commit"):
        dirty = "  (with uncommitted changes)" if found["commit"]["dirty"] else ""
        _line("git commit", f"{found['commit']['hash'] or 'none was recorded'}{dirty}")


def _line(name: str, text: str) -> None:
    click.echo(click.style(f"{name:>14}", bold=True) + f"  {text}")


@click.command()
@click.argument("cycle")
@json_option
def why(cycle: str, as_json: bool) -> None:
    """Why CYCLE (its id, or the beginning of it) ran, what its steps came to, how it ended."""
    from holdfast.lifecycle import trace as tracing
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as ws:
        found = tracing.cycle(ws, cycle)

    def text() -> None:
        from holdfast.core.identity import iso

        c = found["cycle"]
        _line("cycle", f"{c['id']}  {c['status']}  {c['service']}@{c['version'] or '–'}")
        _line("trigger", f"{c['order']['trigger']}: {c['order']['reason']}")
        for name, outcome in found["steps"].items():
            _line(name, ", ".join(f"{k} {str(v)[:60]}" for k, v in outcome.items()) or "done")
        for event in (found["rollout"] or {}).get("history", []):
            _line("rollout", f"{iso(event['at'])}  {event['action']}  {event['weight']:g} %  {event['reason']}")
        _line("ended", f"{iso(c['ended']) if c['ended'] else 'not yet'}  {c['reason']}")

    emit(found, as_json=as_json, text=text)


def shown(score: Any) -> str:
    """A score as people read it: one number, one per class, or none where the model failed."""
    if score is None:
        return "none"
    return f"{score:.4f}" if isinstance(score, float | int) else " ".join(f"{s:.4f}" for s in score)
