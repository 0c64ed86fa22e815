"""What ``holdfast data``'s everyday verbs do and say. Parsing is elsewhere: scripts and hooks give these verbs all day without an
option, and then they are done before click is loaded, which takes as long as most of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.cli.output import echo, progress, say, table

if TYPE_CHECKING:
    from holdfast.core.definitions import Source
    from holdfast.core.errors import BadData
    from holdfast.core.records import DatasetVersion, Finding
    from holdfast.data.quality import Quarantined
    from holdfast.data.repository import Repository
    from holdfast.data.snapshot import Snapshot

MANY = 40
"""Lines of a list that may be as long as the data."""


class Said(NamedTuple):
    """What a verb has to tell: a value for JSON, and what draws it for people."""

    value: Callable[[], Any]
    text: Callable[[], None]


class Added:
    """A version that was tracked without its record, which takes a while to load and is only wanted as JSON."""

    rows = None

    def __init__(self, taken: Snapshot, path: str) -> None:
        self.taken = taken
        self.path = path
        self.md5, self.sha256 = taken.md5, taken.sha256
        self.files, self.size = taken.files, taken.size

    def record(self) -> DatasetVersion:
        return self.taken.version(self.taken.place.stem, self.path, at=0)


def repo_here() -> Repository:
    from holdfast.data import repository

    return repository.require(Path.cwd())


# --- add --------------------------------------------------------------------------------------------------------------


def add(targets: Sequence[Path], *, no_check: bool = False) -> Said:
    """Track files or folders.

    Raises:
        BadData: a table breaks its schema; it was not added.
    """
    _refuse_absent(targets)
    versions = [_add(target, no_check) for target in targets]
    return Said(
        lambda: [one.record() if isinstance(one, Added) else one for one in versions], lambda: _show_versions(versions)
    )


def _refuse_absent(targets: Sequence[Path]) -> None:
    """A name that is mistyped among others is told before any of them is added, as DVC does."""
    absent = [target for target in targets if not os.path.lexists(target)] if len(targets) > 1 else []
    if not absent:
        return
    from holdfast.core.errors import NotFound
    from holdfast.data import members, repository, snapshot

    for target in absent:
        # What is gone from a tracked folder is dropped from its next version.
        repo = repository.find(target.absolute().parent)
        if repo is None or members.folder_of(repo, snapshot.locate(Path.cwd(), target)) is None:
            raise NotFound(f"{target} does not exist; nothing was added", hint="check the path")


def _add(target: Path, no_check: bool) -> DatasetVersion | Added:
    from holdfast.data import repository

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
            return _tracked(target, report)
        if root is not None:
            return _admit(root, target, report)
        return _checked_add(target, report)


def _refuse_elsewhere(target: Path) -> None:
    """A repository is begun where somebody works, never around a path that lies elsewhere."""
    from holdfast.core.errors import BadInput
    from holdfast.data import repository, snapshot

    here, place = Path.cwd(), Path(os.path.abspath(target))  # noqa: PTH100 - links in it stay
    snapshot.refuse_top(place)
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
    from holdfast.data import members, snapshot

    place = snapshot.locate(Path.cwd(), target)
    if members.folder_of(repo, place) is None:
        return None
    from holdfast.core.records import DatasetVersion

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
        before = quality.current(workspace.ledger, name)
        version = quality.admit(
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
        aside = quality.state(workspace.ledger, name).quarantined
    if aside and version == before:
        raise _still_kept_out(target, version, aside)
    for one in aside:
        say(f"notice: {one.path} is in quarantine since an earlier `holdfast data add`, and no part of this version")
    return version


def _still_kept_out(target: Path, version: DatasetVersion, aside: Sequence[Quarantined]) -> BadData:
    """Asked again with the same bytes, the answer is the same."""
    from holdfast.core.errors import BadData
    from holdfast.data import schema

    why = [finding.message for one in aside for finding in one.findings if finding.blocking]
    more = f"; and {len(why) - 3} more" if len(why) > 3 else ""
    return BadData(
        f"{target}: still kept out: {'; '.join(why[:3])}{more}; version {version.md5[:8]} stays current",
        hint=f"mend the data and deliver it again, or, if it is right, widen {schema.file_for(target).name} and run `holdfast data add` again",
    )


def _checked_add(target: Path, report: Any) -> DatasetVersion | Added:
    """Outside a project: DVC's add, with the schema beside the pointer."""
    from holdfast.data import names, repository, snapshot

    if repository.find(target.absolute().parent) is not None:
        # One walk for both: are there tables, and what is to be hashed.
        with suppress(snapshot.CalledOff):
            return _tracked(target, report, unless=names.any_tables)
    elif not names.has_tables(target):
        return _tracked(target, report)
    from holdfast.core.errors import BadData
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


def _tracked(target: Path, report: Any, *, unless: Callable[[Sequence[str]], bool] | None = None) -> Added:
    from holdfast.data import snapshot

    taken = snapshot.track(Path.cwd(), target, progress=report, unless=unless)
    return Added(taken, os.path.relpath(taken.place))


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


def _show_versions(versions: Sequence[DatasetVersion | Added]) -> None:
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
        mark, colour = ("✗", "red") if finding.blocking else ("!", "yellow")
        echo(f"{mark} {finding.check}: {finding.message}", err=True, fg=colour)
        for example in finding.examples[:3]:
            say(f"    {example}")


# --- status -----------------------------------------------------------------------------------------------------------


def status(
    targets: Sequence[Path] = (), *, granular: bool = False, cloud: bool = False, remote: str | None = None
) -> Said:
    """What differs between pointers, stages, cache and workspace; with ``cloud`` or a remote, between cache and remote."""
    from holdfast.data import repository
    from holdfast.data import status as states

    repo = repo_here()
    if cloud or remote:
        return _shared(repo, targets, remote)
    staged, rest = states.stages_of(repo, targets)
    changed = states.outs(repo, rest, granular=granular) if rest or not targets else []
    aside = states.quarantined(repository.project_at(Path.cwd()) or repo.root)

    def text() -> None:
        for state in changed:
            echo(f"{state.pointer}: {state.path}: {state.state}")
            for mark, names in (("+", state.added), ("~", state.changed), ("-", state.removed)):
                for name in names:
                    echo(f"    {mark} {name}")
        for stage, why in staged.items():
            for line in states.in_words(why):
                echo(f"{stage}: {line}")
        for entry in aside:
            named = all(why.startswith(entry.path) for why in entry.why)
            echo(f"quarantine: {entry.name}: {'' if named else entry.path + ': '}{'; '.join(entry.why)}")
        if not changed and not aside and not staged:
            echo("Data is as its pointers say.")

    def value() -> Any:
        return {
            "changed": {**states.as_dvc(changed), **staged},
            "files": [state._asdict() for state in changed] if granular else [],
            "quarantined": [entry._asdict() for entry in aside],
        }

    return Said(value, text)


def _shared(repo: Repository, targets: Sequence[Path], remote: str | None) -> Said:
    from holdfast.data import shared

    found = shared.compare(repo, targets, remote=remote)
    mend = {"new": "push it", "deleted": "fetch it", "missing": "who has it must push it"}

    def text() -> None:
        for at, (path, state) in enumerate(found.items()):
            if at == MANY:
                echo(f"… and {len(found) - MANY} more; --json names them all")
                break
            echo(f"{path}: {state}: {mend[state]}")
        if not found:
            echo("Cache and remote hold the same.")

    return Said(lambda: found, text)


# --- placing and moving -----------------------------------------------------------------------------------------------


def checkout(targets: Sequence[Path] = (), *, force: bool = False, relink: bool = False) -> Said:
    """Make the workspace what the pointers say."""
    from holdfast.data import checkout as checkouts

    repo = repo_here()
    with progress("checkout") as report:
        done = checkouts.checkout(repo, targets, force=force, relink=relink, progress=report)

    def text() -> None:
        for mark, names in (("A", done.added), ("M", done.modified), ("D", done.deleted)):
            for name in names:
                echo(f"{mark}  {name}")
        say(f"{done.files} files placed or removed" if done.files else "everything is in place")

    return Said(lambda: vars(done), text)


def push(targets: Sequence[Path] = (), *, remote: str | None = None, verify: bool = False) -> Said:
    """Bring objects to the remote."""
    from holdfast.data import transfer

    with progress("push") as report:
        moved = transfer.push(repo_here(), targets, remote=remote, verify=verify, progress=report)
    return Said(lambda: vars(moved), lambda: echo(f"{moved.objects} objects pushed, {moved.already} were there"))


def fetch(targets: Sequence[Path] = (), *, remote: str | None = None) -> Said:
    """Bring objects from the remote into the cache."""
    from holdfast.data import transfer

    with progress("fetch") as report:
        moved = transfer.fetch(repo_here(), targets, remote=remote, progress=report)
    return Said(lambda: vars(moved), lambda: echo(f"{moved.objects} objects fetched, {moved.already} were here"))


def pull(targets: Sequence[Path] = (), *, remote: str | None = None, force: bool = False) -> Said:
    """Fetch, then check out."""
    from holdfast.data import transfer

    with progress("pull") as report:
        moved, done = transfer.pull(repo_here(), targets, remote=remote, force=force, progress=report)
    return Said(
        lambda: {"fetched": vars(moved), "placed": vars(done)},
        lambda: echo(f"{moved.objects} objects fetched, {done.files} files placed"),
    )


WITHOUT_OPTIONS: Mapping[str, Callable[[Sequence[Path]], Said]] = {
    "add": add, "status": status, "checkout": checkout, "push": push, "fetch": fetch, "pull": pull,
}  # fmt: skip
