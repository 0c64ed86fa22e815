"""``holdfast data``: version, validate, move data, in DVC's own files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.group import Group
from holdfast.cli.output import emit, json_option, progress, say, table

if TYPE_CHECKING:
    from holdfast.core.definitions import Source
    from holdfast.core.records import DatasetVersion, Finding
    from holdfast.data.repository import Repository

paths = click.argument("targets", nargs=-1, type=click.Path(path_type=Path))


MANY = 40
"""Lines of a list that may be as long as the data."""

MOVES = {
    "check": "Check tables against their schemas; look for leaks, almost keys, overlap.",
    "push": "Bring objects to the remote.",
    "fetch": "Bring objects from the remote into the cache.",
    "pull": "Fetch, then check out.",
    "gc": "Remove objects nobody needs.",
    "scrub": "Read every stored byte and compare it with its name.",
    "log": "The versions one tracked path has had.",
    "diff": "What changed between two versions.",
    "repro": "Run the stages of dvc.yaml that changed.",
    "dag": "The stages of dvc.yaml and what each needs.",
    "import": "Track data of another repository, with its origin.",
    "import-url": "Track data of a URL or of another path, with its origin.",
    "update": "Bring imports to what their origin holds now.",
    "remove": "Stop tracking; the data stays.",
    "unprotect": "Make linked files writable files of their own.",
    "migrate": "Bring data of DVC 2.x to 3.x.",
}


class _Data(Group):
    """Loads the moving commands only when one is called, for status has to be quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *MOVES]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in MOVES:
            if name == "check":
                from holdfast.cli.data_check import check

                return check
            from holdfast.cli.data_moves import COMMANDS

            return COMMANDS[name]
        return super().get_command(ctx, name)


@click.group(cls=_Data)
def data() -> None:
    """Version, validate, move data (DVC's files). Both tools may work on one repository."""


@data.command()
@click.argument("targets", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--no-check", is_flag=True, help="Track it without looking into its tables.")
@json_option
def add(targets: tuple[Path, ...], no_check: bool, as_json: bool) -> None:
    """Track files or folders: version, schema, checks, pointer.

    Data that breaks its schema is kept out; the version before it stays current, and the exit status is 1.
    """
    versions = [_add(target, no_check) for target in targets]
    emit(versions, as_json=as_json, text=lambda: _show_versions(versions))


def _add(target: Path, no_check: bool) -> DatasetVersion:
    from holdfast.data import repository, snapshot

    member = _add_member(target)
    if member is not None:
        return member
    _refuse_elsewhere(target)
    root = repository.project_at(target.absolute().parent)
    if not repository.in_git(target.absolute().parent):
        say(
            "notice: this is not a git repository: the version is kept here only; `git init` and commit the pointer to share it"
        )
    with progress(f"add {target}") as report:
        if no_check:
            return snapshot.add(Path.cwd(), target, progress=report)
        if root is not None:
            return _admit(root, target, report)
        return _checked_add(target, report)


def _refuse_elsewhere(target: Path) -> None:
    """A repository is begun where somebody works, never around a path that lies elsewhere."""
    import os

    from holdfast.core.errors import BadInput
    from holdfast.data import repository

    here, place = Path.cwd(), Path(os.path.abspath(target))  # noqa: PTH100 - links in it stay
    top = repository.project_at(here) or repository.git_top(here) or here
    if repository.find(place.parent) is None and not place.is_relative_to(top):
        raise BadInput(
            f"{target} lies outside {top}, and in no repository",
            hint="copy it here, or bring it in with `holdfast data import-url`",
        )


def _add_member(target: Path) -> DatasetVersion | None:
    """A file inside a tracked folder becomes part of that folder's next version, whether or not the rest is here."""
    from holdfast.data import repository

    repo = repository.find(target.absolute().parent)
    if repo is None:
        return None
    from holdfast.core.records import DatasetVersion
    from holdfast.data import members, snapshot

    place = snapshot.locate(Path.cwd(), target)
    if members.folder_of(repo, place) is None:
        return None
    with progress(f"add {target}") as report:
        done = members.add(repo, place, progress=report)
    say(
        f"notice: {done.path} as a whole was not checked against its schema; `holdfast data check` does where all of it is"
    )
    return DatasetVersion(
        name=Path(done.path).stem, path=done.path, md5=done.md5, sha256="", size=done.size or 0, files=done.files,
        rows=None, schema=None, at=0,
    )  # fmt: skip


def _admit(root: Path, target: Path, report: Any) -> DatasetVersion:
    """In a project the ledger remembers what was let in."""
    from holdfast.data import quality
    from holdfast.workspace import Workspace

    with Workspace.open(root) as workspace:
        source = source_of(root, target)
        name = source.name if source else _name_of(target)
        where = target.absolute()
        return quality.admit(
            root,
            workspace.ledger,
            name,
            where,
            at=workspace.clock.now(),
            actor=workspace.actor,
            source=source,
            progress=report,
            tell=show_findings,
        )


def _checked_add(target: Path, report: Any) -> DatasetVersion:
    """Outside a project: DVC's add, with the schema beside the pointer."""
    from holdfast.core.errors import BadData
    from holdfast.data import snapshot

    if tables_there(target):
        from holdfast.data import quality, schema, tables

        place = target.absolute()
        first = not schema.file_for(place).exists()
        rules = schema.ensure(place)
        findings = quality.check(place, rules, survey=first) if rules else []
        show_findings(findings)
        if any(f.blocking for f in findings):
            raise BadData(
                f"{target} breaks its schema; it was not added",
                hint=f"mend the data, or edit {schema.file_for(place).name}",
            )
        rows = tables.count_rows(place)
        return _with_rows(snapshot.add(Path.cwd(), target, progress=report), rows)
    return snapshot.add(Path.cwd(), target, progress=report)


def tables_there(target: Path) -> bool:
    """Whether it is worth loading what reads tables."""
    from holdfast.data.names import has_tables

    return has_tables(target)


def _with_rows(version: DatasetVersion, rows: int | None) -> DatasetVersion:
    import msgspec

    return msgspec.structs.replace(version, rows=rows)


def source_of(root: Path, target: Path) -> Source | None:
    """The source of the project's definitions that reads this path."""
    from holdfast.core.project import load

    if not (root / "definitions.py").is_file():
        return None
    place = target.absolute()
    for source in load(root).sources.values():
        if source.path is not None and (root / source.path).absolute() == place:
            return source
    return None


def _name_of(target: Path) -> str:
    import re

    name = re.sub(r"[^A-Za-z0-9_.-]", "_", target.name.split(".")[0] or target.name)
    return name if name[:1].isalpha() or name[:1] == "_" else f"_{name}"


def _show_versions(versions: list[DatasetVersion]) -> None:
    rows = [(v.path, v.md5[:8], v.sha256[:8], v.files, v.rows, _bytes(v.size)) for v in versions]
    table(["path", "md5", "sha256", "files", "rows", "size"], rows)


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def show_findings(findings: list[Finding]) -> None:
    """Findings with a few rows to look at, to stderr."""
    for finding in findings:
        click.secho(
            f"{'✗' if finding.blocking else '!'} {finding.check}: {finding.message}",
            err=True,
            fg="red" if finding.blocking else "yellow",
        )
        for example in finding.examples[:3]:
            say(f"    {example}")


@data.command()
@paths
@click.option("--files", "granular", is_flag=True, help="Name the files of a folder that differ.")
@click.option("--cloud", "-c", is_flag=True, help="Compare the cache with the remote instead.")
@click.option("--remote", "-r", help="Name of the remote to compare with; the default one without it.")
@json_option
def status(targets: tuple[Path, ...], granular: bool, cloud: bool, remote: str | None, as_json: bool) -> None:
    """What differs between pointers, stages, cache and workspace, and what is in quarantine.

    Origins of imports are not asked; `update --dry-run` does that.
    """
    from holdfast.data import repository
    from holdfast.data import status as states

    repo = repository.require(Path.cwd())
    if cloud or remote:
        _show_shared(repo, targets, remote, as_json)
        return
    staged, rest = states.stages_of(repo, targets)
    changed = states.outs(repo, rest, granular=granular) if rest or not targets else []
    aside = states.quarantined(repository.project_at(Path.cwd()) or repo.root)

    def text() -> None:
        for state in changed:
            click.echo(f"{state.pointer}: {state.path}: {state.state}")
            for mark, names in (("+", state.added), ("~", state.changed), ("-", state.removed)):
                for name in names:
                    click.echo(f"    {mark} {name}")
        for stage, why in staged.items():
            for line in states.in_words(why):
                click.echo(f"{stage}: {line}")
        for entry in aside:
            named = all(why.startswith(entry.path) for why in entry.why)
            click.echo(f"quarantine: {entry.name}: {'' if named else entry.path + ': '}{'; '.join(entry.why)}")
        if not changed and not aside and not staged:
            click.echo("Data is as its pointers say.")

    value = {
        "changed": {**states.as_dvc(changed), **staged},
        "files": changed if granular else [],
        "quarantined": aside,
    }
    emit(value, as_json=as_json, text=text)


def _show_shared(repo: Repository, targets: tuple[Path, ...], remote: str | None, as_json: bool) -> None:
    from holdfast.data import shared

    found = shared.compare(repo, targets, remote=remote)
    mend = {"new": "push it", "deleted": "fetch it", "missing": "who has it must push it"}

    def text() -> None:
        for at, (path, state) in enumerate(found.items()):
            if at == MANY:
                click.echo(f"… and {len(found) - MANY} more; --json names them all")
                break
            click.echo(f"{path}: {state}: {mend[state]}")
        if not found:
            click.echo("Cache and remote hold the same.")

    emit(found, as_json=as_json, text=text)


@data.command()
@paths
@click.option("--force", "-f", is_flag=True, help="Throw away changed files that are in no cache.")
@click.option("--relink", is_flag=True, help="Place every file again by the configured cache.type.")
@json_option
def checkout(targets: tuple[Path, ...], force: bool, relink: bool, as_json: bool) -> None:
    """Make the workspace what the pointers say."""
    from holdfast.data import checkout as checkouts
    from holdfast.data import repository

    repo = repository.require(Path.cwd())
    with progress("checkout") as report:
        done = checkouts.checkout(repo, targets, force=force, relink=relink, progress=report)

    def text() -> None:
        for mark, names in (("A", done.added), ("M", done.modified), ("D", done.deleted)):
            for name in names:
                click.echo(f"{mark}  {name}")
        say(f"{done.files} files placed or removed" if done.files else "everything is in place")

    emit(vars(done), as_json=as_json, text=text)
