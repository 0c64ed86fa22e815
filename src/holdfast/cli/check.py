"""``holdfast check``: the gate over one version; exit status 1 unless it passes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import emit, json_option, say, table

if TYPE_CHECKING:
    from holdfast.core.records import ModelVersion, Verdict
    from holdfast.workspace import Workspace


@click.command()
@click.argument("version")
@click.option("--service", help="Whose gate, where several services use this model.")
@click.option("--definitions", help="Another definitions module than the project's.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Held-out rows (CSV, parquet), for a version without a training set here.",
)
@click.option("--label", help="The column of --data that holds the truth.")
@click.option(
    "--task",
    type=click.Choice(["binary", "multiclass", "regression"]),
    default="binary",
    show_default=True,
    help="What the model answers; for --data.",
)
@click.option(
    "--rule", "rules", multiple=True, help="With --data, a rule where no service declares a gate: accuracy>=0.9."
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Also write the results as JUnit XML.")
@click.option(
    "--markdown", type=click.Path(path_type=Path, dir_okay=False), help="Also write the table for a pull request."
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write the model card as one page.")
@json_option
def check(
    version: str,
    service: str | None,
    definitions: str | None,
    data: Path | None,
    label: str | None,
    task: str,
    rules: tuple[str, ...],
    junit: Path | None,
    markdown: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Measure VERSION (name@7, name@latest) against its gate on held-out rows and attach the verdict. Exits with 1 unless
    it passes."""
    from holdfast.core.errors import NotFound
    from holdfast.core.project import load
    from holdfast.lifecycle import measure, outside
    from holdfast.registry import versions
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as ws:
        found = versions.resolve(ws.ledger, version)
        try:
            services = load(ws.root, definitions or ws.settings.definitions).services
        except NotFound:
            if not rules:
                raise
            services = {}
        owners = [s for s in services.values() if s.model.name == found.name and service in (None, s.name)]
        if owners and rules:
            raise click.UsageError(
                f"service {owners[0].name!r} declares the gate of {found.name!r}; --rule is for models without one"
            )
        if not owners and not (data and rules):
            raise NotFound(
                f"no service of the project has a gate for {found.name!r}",
                hint="declare one with hf.Service(gate=hf.Gate(…)), or name rules: --data FILE --label COLUMN --rule 'accuracy>=0.9'",
            )
        if data is not None:
            if label is None:
                raise click.UsageError("--data needs --label COLUMN")
            gate = owners[0].gate if owners else outside.rules_from_text(rules)
            verdict = outside.check_file(
                ws, found, gate, data=data, label=label, task=task, at=ws.clock.now(),  # type: ignore[arg-type]
                service=owners[0] if owners else None,
            )  # fmt: skip
        else:
            verdict = measure.check(ws, owners[0], found, at=ws.clock.now())

        if html is not None:
            html.write_text(card_page(ws, found, verdict, task), encoding="utf-8")

    from holdfast.validation import render

    if junit is not None:
        junit.write_text(render.junit(verdict), encoding="utf-8")
    if markdown is not None:
        markdown.write_text(render.markdown(verdict), encoding="utf-8")

    def text() -> None:
        table(render.HEADERS, render.rows(verdict))
        click.secho(f"\n{found.name}@{found.version}: {verdict.outcome}", bold=True)

    emit(verdict, as_json=as_json, text=text)
    if verdict.outcome != "pass":
        say("the gate keeps this version out of Production")
        raise SystemExit(1)


def card_page(ws: Workspace, version: ModelVersion, verdict: Verdict | None, task: Any) -> str:
    """The model card from what the store keeps: the manifest and the evidence the verdict names."""
    import msgspec

    from holdfast.core.errors import NotFound
    from holdfast.core.records import Evidence
    from holdfast.lifecycle import decision, outside
    from holdfast.registry import card, live_verdicts, waivers

    kept = (
        msgspec.json.decode(ws.objects.get(verdict.evidence), type=list[Evidence])
        if verdict is not None and ws.objects.exists(verdict.evidence)
        else []
    )
    try:
        why = decision.get(ws, version)
    except NotFound:
        why = None
    waived = waivers.active(ws.ledger, version.name, version.version, at=ws.clock.now())
    live = live_verdicts.of(ws.ledger, version.name, version.version, content=version.content)
    package = outside.manifest(ws, version, columns=[], task=task)
    return card.html(version, package, verdict, kept, decision=why, waived=waived, live=live)
