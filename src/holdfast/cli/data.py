"""``holdfast data``: version, validate, move data, in DVC's own files."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.cli import data_verbs
from holdfast.cli.group import Group
from holdfast.cli.output import emit, json_option

paths = click.argument("targets", nargs=-1, type=click.Path(path_type=Path))

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


def show(said: data_verbs.Said, as_json: bool) -> None:
    """What a verb has to tell, as it was asked for."""
    emit(said.value() if as_json else None, as_json=as_json, text=said.text)


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
    show(data_verbs.add(targets, no_check=no_check), as_json)


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
    show(data_verbs.status(targets, granular=granular, cloud=cloud, remote=remote), as_json)


@data.command()
@paths
@click.option("--force", "-f", is_flag=True, help="Throw away changed files that are in no cache.")
@click.option("--relink", is_flag=True, help="Place every file again by the configured cache.type.")
@json_option
def checkout(targets: tuple[Path, ...], force: bool, relink: bool, as_json: bool) -> None:
    """Make the workspace what the pointers say."""
    show(data_verbs.checkout(targets, force=force, relink=relink), as_json)
