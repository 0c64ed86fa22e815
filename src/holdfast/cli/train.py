"""``holdfast train``: training set → fit → package → registered version, without moving any traffic."""

from __future__ import annotations

import click

from holdfast.cli.output import emit, json_option, progress, say


@click.command()
@click.argument("model")
@click.option("--as-of", help="Train as if it were this instant: only what was known then is seen.  [default: now]")
@click.option("--definitions", help="Another definitions module than the project's.")
@click.option(
    "--sample",
    type=click.FloatRange(0, 1, min_open=True),
    help="Train on this share of the labelled rows: a trial run.",
)
@json_option
def train(model: str, as_of: str | None, definitions: str | None, sample: float | None, as_json: bool) -> None:
    """Build the training set of MODEL, fit its candidates, package the best and register it as the next version."""
    from holdfast.core.errors import NotFound
    from holdfast.core.identity import new_id, to_us
    from holdfast.core.project import load
    from holdfast.lifecycle import candidate
    from holdfast.workspace import Workspace

    with Workspace.open() as ws:
        module = definitions or ws.settings.definitions
        models = load(ws.root, module).models
        if model not in models:
            raise NotFound.among("model", model, models)
        at = to_us(as_of) if as_of else ws.clock.now()
        name = new_id()
        with progress(f"train {model}", quiet=as_json) as report:
            result = candidate.train(ws, models[model], name=name, at=at, module=module, sample=sample, progress=report)
    emit(
        result,
        as_json=as_json,
        text=lambda: click.echo(
            f"{result['name']}@{result['version']}  {result['rows']:,} rows  run {result['run_id']}"
        ),
    )
    for suspect in result["suspects"]:
        say(f"suspicious: {suspect}")
    say(f"next: holdfast check {result['name']}@{result['version']}")
