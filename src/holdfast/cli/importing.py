"""``holdfast import-mlflow``: from another tracking server into this workspace."""

from __future__ import annotations

import click

from holdfast.cli.models import terms_of
from holdfast.cli.output import emit, json_option, progress, say


@click.command("import-mlflow")
@click.argument("url")
@json_option
def import_mlflow(url: str, as_json: bool) -> None:
    """Bring in experiments, runs, artifacts, models, versions and stages of the MLflow server at URL.

    Ids and version numbers are kept; run again, it brings in what is new. The gate is asked before an imported version
    is approved.
    """
    import msgspec

    from holdfast.protocols.mlflow.context import Context
    from holdfast.protocols.mlflow.importer import Importer, Remote
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace, progress("import", quiet=as_json) as report:
        context = Context(
            runs=workspace.runs,
            ledger=workspace.ledger,
            objects=workspace.objects,
            clock=workspace.clock,
            policy=lambda name: terms_of(workspace, name),
            protected=tuple(workspace.settings.gate.protected_aliases),
            actor=workspace.actor,
        )
        found = Importer(context, Remote(url), progress=report).run()

    def text() -> None:
        counts = ", ".join(f"{v:,} {k}" for k, v in msgspec.to_builtins(found).items() if k != "notes")
        say(f"imported {counts}")
        for note in found.notes:
            say(f"  {note}")

    emit(msgspec.to_builtins(found), as_json=as_json, text=text)
