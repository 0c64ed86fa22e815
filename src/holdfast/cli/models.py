"""``holdfast models``: versions, stages, aliases, their history; and ``holdfast approve``, the human step.

Approvals move here; traffic moves with ``holdfast release``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.group import Group
from holdfast.cli.output import emit, json_option, say, table

if TYPE_CHECKING:
    from holdfast.core.records import ModelVersion
    from holdfast.registry.approval import Terms
    from holdfast.workspace import Workspace

reason_option = click.option("--reason", default="", help="Why; kept in the ledger.")


def terms_of(workspace: Workspace, name: str) -> Terms:
    """The gate's terms for a model name: what the project declares and the settings ask for."""
    from holdfast.core.errors import NotFound
    from holdfast.registry.approval import terms_for

    try:
        services = workspace.project().services.values()
    except NotFound:
        return terms_for((), name, workspace.settings.gate.policy)
    return terms_for(services, name, workspace.settings.gate.policy)


@click.group(cls=Group)
def models() -> None:
    """List, inspect and move approvals of model versions."""


@models.command("list")
@click.argument("name", required=False)
@json_option
def list_(name: str | None, as_json: bool) -> None:
    """List models, or the versions of one."""
    import msgspec

    from holdfast.registry import versions, waivers

    with _workspace() as workspace:
        if name is None:
            known = versions.list_models(workspace.ledger)
            rows = []
            for model in known:
                stages = {v.stage: v.version for v in versions.list(workspace.ledger, model.name) if v.stage != "None"}
                rows.append([model.name, model.last, _pairs(stages), _pairs(model.aliases), _when(model.updated)])
            value: Any = [msgspec.to_builtins(m) for m in known]
            headers = ["model", "latest", "stages", "aliases", "changed"]
        else:
            versions.get_model(workspace.ledger, name)
            listed = versions.list(workspace.ledger, name)
            waived: dict[int | None, list[str]] = {}
            for waiver in waivers.in_force(workspace.ledger, at=workspace.clock.now()):
                if waiver.model == name:
                    waived.setdefault(waiver.version, []).append(waiver.check)
            rows = []
            for v in listed:
                verdict = versions.verdict(workspace.ledger, name, v.version)
                outcome = verdict.outcome if verdict else None
                rows.append([
                    v.version, v.stage, ", ".join(v.aliases) or None, outcome, ", ".join(waived.get(v.version, ())) or None,
                    v.content[:12], v.run_id, _when(v.at),
                ])  # fmt: skip
            value = [{**msgspec.to_builtins(v), "waived": waived.get(v.version, [])} for v in listed]
            headers = ["version", "stage", "aliases", "gate", "waived", "content", "run", "made"]
    emit(value, as_json=as_json, text=lambda: table(headers, rows))


@models.command()
@click.argument("reference")
@json_option
def decision(reference: str, as_json: bool) -> None:
    """The decision record of REFERENCE (name@version): why this model, this threshold, these features."""
    from holdfast.lifecycle import decision as decisions
    from holdfast.registry import versions

    with _workspace() as workspace:
        found = decisions.get(workspace, versions.resolve(workspace.ledger, reference))

    def text() -> None:
        model, cut, features = found["why_this_model"], found["why_this_threshold"], found["why_these_features"]
        click.secho(f"{found['version']}  {found['content'][:12]}  verdict {found['verdict']}", bold=True)
        rows = [
            (
                "chosen" if i == model["chosen"] else "",
                c["metrics"].get(model["chosen_by"]),
                round(c["seconds"], 1),
                str(c["params"]),
            )
            for i, c in enumerate(model["candidates"])
        ]
        table(["", model["chosen_by"], "seconds", "candidate"], rows, title="Why this model")
        costs = cut["costs"]
        click.echo(
            f"\nWhy this threshold: {cut['threshold']} (a miss costs {costs['miss']:g}, a false alarm {costs['false_alarm']:g})"
        )
        best = min((p["cost"] for p in cut["curve"]), default=None)
        if best is not None:
            click.echo(f"  least cost per row on the tune rows {best:.4f}, over {len(cut['curve'])} cuts")
        leaned = [(f["feature"], f["drop"], f"[{f['low']:.4f}, {f['high']:.4f}]") for f in features["importance"][:12]]
        click.echo()
        table(["feature", f"drop of {features['metric']}", "interval"], leaned, title="Why these features")
        alone = [(f["feature"], f["drop"], f"[{f['low']:.4f}, {f['high']:.4f}]") for f in features.get("ablation", [])]
        if alone:
            click.echo()
            table(["without", "drop", "interval"], alone, title="Fitted again without")

    emit(found, as_json=as_json, text=text)


@models.command()
@click.argument("reference")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the page here.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write the short form here.")
@click.option("--task", type=click.Choice(["binary", "multiclass", "regression"]), default="binary", show_default=True,
              help="What a version without a package of Holdfast's predicts.")  # fmt: skip
def card(reference: str, html: Path | None, markdown: Path | None, task: str) -> None:
    """The model card of a version, drawn from the ledger: data, verdict with every figure, plots, decision. Markdown to stdout
    unless a file is named."""
    from holdfast.cli.check import card_page
    from holdfast.core.errors import NotFound
    from holdfast.registry import versions
    from holdfast.validation import render

    with _workspace() as workspace:
        version = versions.resolve(workspace.ledger, reference)
        verdict = versions.verdict(workspace.ledger, version.name, version.version)
        if html is not None:
            html.write_text(card_page(workspace, version, verdict, task), encoding="utf-8")
            say(f"{html} shows {version.name}@{version.version}")
    if markdown is None and html is not None:
        return
    if verdict is None:
        raise NotFound(
            f"{version.name}@{version.version} was not checked, so there are no figures to show",
            hint=f"run `holdfast check {version.name}@{version.version}`",
        )
    text = render.markdown(verdict)
    if markdown is None:
        click.echo(text)
    else:
        markdown.write_text(text, encoding="utf-8")


@models.command()
@click.argument("reference")
@json_option
def show(reference: str, as_json: bool) -> None:
    """Show one version: where it came from, its files, its verdict."""
    import msgspec

    from holdfast.core.errors import BadInput, NotFound
    from holdfast.registry import foreign, live_verdicts, versions, waivers
    from holdfast.validation import render

    with _workspace() as workspace:
        version = versions.resolve(workspace.ledger, reference)
        verdict = versions.verdict(workspace.ledger, version.name, version.version)
        waived = waivers.active(workspace.ledger, version.name, version.version, at=workspace.clock.now())
        live = live_verdicts.of(workspace.ledger, version.name, version.version, content=version.content)
        policy = terms_of(workspace, version.name).policy
        try:
            files = foreign.files_of(workspace.objects, version.content)
        except (NotFound, BadInput):
            files = {}
    value = {
        **msgspec.to_builtins(version),
        "policy": policy,
        "verdict": msgspec.to_builtins(verdict),
        "live": msgspec.to_builtins(live),
        "waivers": msgspec.to_builtins(waived),
        "files": msgspec.to_builtins(files),
    }

    def text() -> None:
        click.secho(f"{version.name}@{version.version}", bold=True)
        facts = [
            ("stage", version.stage),
            ("aliases", ", ".join(version.aliases) or None),
            ("content", version.content),
            ("run", version.run_id),
            ("training set", version.training_set),
            ("source", version.source or None),
            ("tags", _pairs(version.tags)),
            ("made", f"{_when(version.at)} by {version.actor}"),
            ("gate policy", policy),
            ("verdict", f"{verdict.outcome} ({_when(verdict.at)})" if verdict else "none"),
        ]
        for label, shown in facts:
            if shown:
                click.echo(f"  {label:13} {shown}")
        if verdict:
            table(render.HEADERS, render.rows(verdict))
        for one in live:
            click.secho(
                f"{one.step} at {one.weight:g} % on {one.service}: {one.verdict.outcome} ({_when(one.verdict.at)})",
                bold=True,
            )
            table(render.HEADERS, render.rows(one.verdict))
        if waived:
            told = [[w.check, w.group, w.by, _when(w.until), w.reason] for w in waived]
            table(["waived", "group", "by", "until", "why"], told)
        if files:
            table(["file", "bytes", "sha256"], [[n, f.size, f.sha256[:12]] for n, f in files.items()])

    emit(value, as_json=as_json, text=text)


@models.command()
@click.argument("name")
@json_option
def history(name: str, as_json: bool) -> None:
    """Every change of a model: who, when, from what to what, why."""
    import msgspec

    from holdfast.registry import history as changes
    from holdfast.registry import versions

    with _workspace() as workspace:
        found = changes.of(workspace.ledger, name)
        if not found:
            raise versions.unknown_model(workspace.ledger, name)
    rows = [[_when(c.at), c.what, c.version, c.before, c.after, c.actor, c.reason or None] for c in found]
    emit(
        [msgspec.to_builtins(c) for c in found],
        as_json=as_json,
        text=lambda: table(["at", "what", "version", "before", "after", "by", "why"], rows),
    )


@models.command()
@click.argument("name")
@click.option("--at", help="Instant, like 2013-03-01T06:00:00Z; now when not given.")
@json_option
def live(name: str, at: str | None, as_json: bool) -> None:
    """Which versions each stage and alias held at an instant."""
    from holdfast.core.identity import iso, to_us
    from holdfast.registry import history as changes
    from holdfast.registry import versions

    with _workspace() as workspace:
        instant = to_us(at) if at else workspace.clock.now()
        if not changes.of(workspace.ledger, name):
            raise versions.unknown_model(workspace.ledger, name)
        found = changes.live(workspace.ledger, name, at=instant)
    rows = [[where, ", ".join(map(str, held))] for where, held in found.items()]

    def text() -> None:
        if rows:
            table(["where", "version"], rows)
        else:
            say(f"nothing of {name} was in a stage or under an alias at {iso(instant)}")

    emit({"at": instant, "name": name, "live": found}, as_json=as_json, text=text)


@models.command()
@click.argument("reference")
@click.argument("stage", type=click.Choice(["None", "Staging", "Production", "Archived"], case_sensitive=False))
@click.option("--keep-others", is_flag=True, help="Leave the versions already in that stage where they are.")
@reason_option
@json_option
def stage(reference: str, stage: str, keep_others: bool, reason: str, as_json: bool) -> None:
    """Move a version to a stage. Production asks the gate."""
    _move(reference, stage, reason=reason, keep_others=keep_others, as_json=as_json)


@models.command()
@click.argument("reference")
@click.option(
    "--to",
    type=click.Choice(["Staging", "Production"], case_sensitive=False),
    default="Production",
    show_default=True,
    help="The stage.",
)
@reason_option
@json_option
def promote(reference: str, to: str, reason: str, as_json: bool) -> None:
    """Move a version up, into Production where the gate allows it; what was there before is archived."""
    _move(reference, to, reason=reason, keep_others=False, as_json=as_json)


@models.command()
@click.argument("reference")
@click.argument("alias")
@click.option("--remove", is_flag=True, help="Take the alias away from the model.")
@reason_option
@json_option
def alias(reference: str, alias: str, remove: bool, reason: str, as_json: bool) -> None:
    """Point an alias at a version. A protected alias (champion) asks the gate."""
    import msgspec

    from holdfast.registry import pointers, versions

    with _workspace() as workspace:
        version = versions.resolve(workspace.ledger, reference)
        moved = pointers.move_alias(
            workspace.ledger,
            version.name,
            alias,
            None if remove else version.version,
            policy=terms_of(workspace, version.name),
            at=workspace.clock.now(),
            actor=workspace.actor,
            reason=reason,
            protected=tuple(workspace.settings.gate.protected_aliases),
        )
    where = "removed" if remove else f"{version.name}@{version.version}"
    emit(msgspec.to_builtins(moved), as_json=as_json, text=lambda: say(f"alias {alias}: {where}"))


@models.command()
@click.argument("name")
@reason_option
@json_option
def rollback(name: str, reason: str, as_json: bool) -> None:
    """Put the version back into Production that was there before. (Traffic: `holdfast rollback SERVICE`.)"""
    import msgspec

    from holdfast.registry import pointers

    with _workspace() as workspace:
        version = pointers.rollback(
            workspace.ledger,
            name,
            policy=terms_of(workspace, name),
            at=workspace.clock.now(),
            actor=workspace.actor,
            reason=reason,
        )
    emit(msgspec.to_builtins(version), as_json=as_json, text=lambda: say(f"{name}@{version.version} is in Production"))


@models.command()
@click.argument("reference")
@click.argument("check")
@click.option("--until", required=True, help="Instant (2026-12-01) or length of time (7d).")
@click.option("--group", help="Only for this group of a fairness check.")
@click.option("--reason", required=True, help="Why; kept in the ledger.")
@json_option
def waive(reference: str, check: str, until: str, group: str | None, reason: str, as_json: bool) -> None:
    """Waive one check of one version, for a while, with your name on it."""
    import msgspec

    from holdfast.core.errors import BadInput
    from holdfast.core.identity import duration_us, iso, to_us
    from holdfast.core.records import Waiver
    from holdfast.registry import versions, waivers

    with _workspace() as workspace:
        now = workspace.clock.now()
        try:
            end = now + duration_us(until)
        except BadInput:
            end = to_us(until)
        version = versions.resolve(workspace.ledger, reference)
        waiver = Waiver(
            check=check,
            by=workspace.actor,
            reason=reason,
            until=end,
            at=now,
            group=group,
            model=version.name,
            version=version.version,
        )
        waivers.grant(workspace.ledger, waiver, at=now)
    done = f"{check} is waived for {version.name}@{version.version} until {iso(end)}; run `holdfast check` again"
    emit(msgspec.to_builtins(waiver), as_json=as_json, text=lambda: say(done))


@models.command()
@click.argument("what")
@click.option("--remove", is_flag=True, help="Take the trust back.")
@click.option("--reason", default="", help="Who made these bytes and how they reached you.")
@json_option
def trust(what: str, remove: bool, reason: str, as_json: bool) -> None:
    """Vouch for a model file that could run code when loaded, by its SHA-256 (or a path to it)."""
    from holdfast.core.identity import file_sha256
    from holdfast.registry import waivers

    path = Path(what)
    sha256 = file_sha256(path) if path.is_file() else what.lower()
    with _workspace() as workspace:
        if remove:
            waivers.distrust(workspace.ledger, sha256, at=workspace.clock.now(), actor=workspace.actor)
        else:
            waivers.trust(workspace.ledger, sha256, reason=reason, at=workspace.clock.now(), actor=workspace.actor)
    verb = "no longer trusted" if remove else "trusted"
    emit({"sha256": sha256, "trusted": not remove}, as_json=as_json, text=lambda: say(f"{sha256} is {verb}"))


@models.command()
@click.argument("reference")
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Rows like those it will meet (CSV, parquet).",
)
@click.option("--label", help="A column of --data that is the truth and no input.")
@click.option("--timestamp", help="A column of --data that says when; drift is then measured against these days.")
@click.option(
    "--task",
    type=click.Choice(["binary", "multiclass", "regression"]),
    default="binary",
    show_default=True,
    help="What the model answers.",
)
@click.option("--threshold", type=click.FloatRange(0, 1), help="Where a binary model says 1.  [default: 0.5]")
@json_option
def package(
    reference: str,
    data: Path,
    label: str | None,
    timestamp: str | None,
    task: Any,
    threshold: float | None,
    as_json: bool,
) -> None:
    """Make a version that can be served of REFERENCE, which an MLflow client logged: its model, rows it must answer as now,
    and a profile that drift is measured against. It is the next version of the same model."""
    import msgspec

    from holdfast.lifecycle import adopt
    from holdfast.registry import versions

    with _workspace() as workspace:
        made = adopt.adopt(
            workspace, versions.resolve(workspace.ledger, reference), data=data, label=label, timestamp=timestamp,
            task=task, threshold=threshold, at=workspace.clock.now(),
        )  # fmt: skip
    emit(
        msgspec.to_builtins(made),
        as_json=as_json,
        text=lambda: click.echo(f"{made.name}@{made.version}  {made.content[:12]}  {made.source}"),
    )
    say(f"next: holdfast check {made.name}@{made.version} --data FILE --label COLUMN")


@models.command()
@click.argument("reference")
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="A new folder.")
@json_option
def export(reference: str, folder: Path, as_json: bool) -> None:
    """Write a version's files, verified, into a folder."""
    import msgspec

    from holdfast.core.errors import Conflict
    from holdfast.core.records import Package
    from holdfast.registry import foreign, package, versions

    if folder.exists():
        raise Conflict(f"{folder} is there already", hint="give a new folder")
    with _workspace() as workspace:
        version = versions.resolve(workspace.ledger, reference)
        files = foreign.files_of(workspace.objects, version.content)
        whole = Package(
            name=version.name, format="", task="binary", model_file="", files=files, inputs=[], request=[], outputs=[]
        )
        package.unpack(workspace.objects, whole, folder)
    emit(
        {"folder": str(folder), "files": msgspec.to_builtins(files)},
        as_json=as_json,
        text=lambda: say(f"{version.name}@{version.version}: {len(files)} files in {folder}"),
    )


@click.command()
@click.argument("reference")
@reason_option
@click.option("--alias", "alias_", help="Also point this alias (champion) at it.")
@json_option
def approve(reference: str, reason: str, alias_: str | None, as_json: bool) -> None:
    """The human step: approve a version that passed the gate (stage Production; traffic stays where it is)."""
    _move(reference, "Production", reason=reason or "approved", keep_others=False, as_json=as_json, alias=alias_)


def _move(
    reference: str, stage: str, *, reason: str, keep_others: bool, as_json: bool, alias: str | None = None
) -> None:
    import msgspec

    from holdfast.registry import pointers, versions

    with _workspace() as workspace:
        version = versions.resolve(workspace.ledger, reference)
        policy = terms_of(workspace, version.name)
        now = workspace.clock.now()
        moved: ModelVersion = pointers.move_stage(
            workspace.ledger,
            version.name,
            version.version,
            stage,
            policy=policy,
            at=now,
            actor=workspace.actor,
            reason=reason,
            archive_existing=not keep_others,
        )
        if alias:
            pointers.move_alias(
                workspace.ledger,
                version.name,
                alias,
                version.version,
                policy=policy,
                at=now,
                actor=workspace.actor,
                reason=reason,
                protected=tuple(workspace.settings.gate.protected_aliases),
            )
    done: Callable[[], None] = lambda: say(f"{moved.name}@{moved.version} is in stage {moved.stage}")  # noqa: E731
    emit(msgspec.to_builtins(moved), as_json=as_json, text=done)


def _workspace() -> Workspace:
    from holdfast.workspace import Workspace

    return Workspace.open(create=False)


def _when(at: int) -> str:
    from holdfast.core.identity import SECOND, iso

    return iso(at // SECOND * SECOND)


def _pairs(values: dict[str, Any]) -> str | None:
    return ", ".join(f"{k}={v}" for k, v in values.items()) or None
