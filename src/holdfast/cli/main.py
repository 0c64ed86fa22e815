"""The entry point: a table of commands, each loaded only when called, and what an error becomes on the way out.

Exit status: 0 done, 1 your turn (bad input, a gate that says no), 2 ours. Data goes to stdout, talk to stderr.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from holdfast.cli.output import notices_as_talk
from holdfast.cli.start import flushed, leave
from holdfast.core.errors import HoldfastError, did_you_mean

# name: (module in holdfast.cli, attribute, one line of help)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "init": ("init", "init", "Scaffold a project that runs."),
    "config": ("config", "config", "Show every setting and where its value came from."),
    "data": ("data", "data", "Version, validate, move data (DVC's files)."),
    "features": ("features", "features", "Apply, list, serve, materialize, verify features."),
    "train": ("train", "train", "Build the training set, fit, package, register a model version."),
    "run": ("run", "run", "Run any script as a tracked, reproducible run."),
    "reproduce": ("run", "reproduce", "Do a run again and compare."),
    "runs": ("runs", "runs", "List, show, compare and plot tracked runs."),
    "import-mlflow": ("importing", "import_mlflow", "Bring in what an MLflow server holds."),
    "models": ("models", "models", "List, inspect and move approvals of model versions."),
    "check": ("check", "check", "The gate: measure a version and decide."),
    "approve": ("models", "approve", "The human step: approve a version that passed the gate."),
    "serve": ("serve", "serve", "Answer predictions: replicas behind one address."),
    "deploy": ("release", "deploy", "Staging, smoke, shadow, canary, production, or back."),
    "release": ("release", "release", "Show and move traffic of a service."),
    "rollback": ("release", "rollback", "Give traffic back to the last good release at once."),
    "predict": ("predict", "predict", "Ask a running service for one prediction or a file of them."),
    "batch": ("predict", "batch", "Score a table of any size with a model version."),
    "labels": ("labels", "labels", "Add and count the truth for predictions."),
    "monitor": ("monitor", "monitor", "Run monitors now; show reports, drift and alerts."),
    "loop": ("loop", "loop", "The automatic loop: monitors, retraining, rollouts."),
    "status": ("status", "status", "What is live, what is running, what needs you."),
    "trace": ("trace", "trace", "From one prediction back to data bytes and git commit."),
    "why": ("trace", "why", "Why a cycle ran and how it ended."),
    "backtest": ("backtest", "backtest", "Replay the retraining policy over the ledger with other settings."),
    "server": ("server", "server", "The control plane: MLflow's protocol, tracking and registry."),
    "up": ("up", "up", "Everything on this machine: server, replicas, features, loop."),
    "image": ("image", "image", "Write and build a container context for a version."),
    "manifests": ("image", "manifests", "Write Kubernetes and compose files for a service."),
    "ci": ("ci", "ci", "Write a CI workflow that runs data checks, tests and the gate."),
    "audit": ("audit", "audit", "Verify the ledger's hash chain; show entries."),
    "completion": ("completion", "completion", "Print a shell completion script."),
}


class LazyGroup(click.Group):
    """Loads a command's module when the command is called; help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        command: click.Command = getattr(importlib.import_module(f"holdfast.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(
                f"unknown command {args[0]!r}; {did_you_mean(args[0], COMMANDS, kind='command')}", ctx
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `holdfast init`. Every command has --help and, where it prints data, --json.",
)
@click.version_option(package_name="holdfast", prog_name="holdfast")
@click.option(
    "--project", "-C", type=click.Path(file_okay=False), help="Work in this folder instead of the current one."
)
@click.option("--env", "environment", help="Environment of holdfast.toml to use.")
def cli(project: str | None, environment: str | None) -> None:
    """Holdfast keeps models true while the data drifts: data, features, training, registry, gate, serving, monitoring
    and retraining as one tool."""
    if project:
        try:
            os.chdir(project)
        except OSError as error:
            raise click.UsageError(f"--project {project}: {error.strerror}") from error
    if environment:
        os.environ["HOLDFAST_ENV"] = environment


def main(argv: list[str] | None = None) -> Any:
    """Run the CLI and leave the process with the right status."""
    status = _run(argv)
    if argv is None and sys.argv[1:2] == ["data"]:
        leave(status)
    sys.exit(flushed(status))


def _run(argv: list[str] | None) -> int:
    notices_as_talk()
    try:
        result = cli.main(args=argv, prog_name="holdfast", standalone_mode=False)
    except BaseException as error:  # noqa: BLE001  (what it is, is decided in one place)
        return ended_by(error)
    return result if isinstance(result, int) else 0


def ended_by(error: BaseException) -> int:
    """Say what ended a command; the status it ends with.

    Raises:
        BaseException: the error itself, where it is a process's own way to end.
    """
    try:
        return _told(error)
    except OSError:
        return 1  # nor can anybody be told


def _told(error: BaseException) -> int:
    if isinstance(error, click.exceptions.Abort | KeyboardInterrupt):
        # After the terminal's own ^C; for an Abort click has ended that line already.
        click.echo("\n" * isinstance(error, KeyboardInterrupt) + "interrupted", err=True)
        return 130
    if isinstance(error, click.ClickException):
        error.show()
        _as_json("HF100", error.format_message(), None)
        return 1
    if isinstance(error, click.exceptions.Exit):
        return 1 if error.exit_code == 2 else error.exit_code
    if isinstance(error, HoldfastError):
        return _tell(error)
    if isinstance(error, BrokenPipeError):
        _without_stdout()
        return 0
    if isinstance(error, OSError):
        return _tell_os(error)
    if isinstance(error, UnicodeEncodeError):
        return _tell_words(error)
    if isinstance(error, Exception):
        return _tell_bug(error)
    raise error


def _tell(error: HoldfastError) -> int:
    """Print an error for people, and as JSON where the caller asked for JSON."""
    _as_json(error.number, error.message, error.hint)
    click.echo(f"error[{error.number}]: {error.message}", err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)
    return error.exit_code


def _as_json(number: str, message: str, hint: str | None) -> None:
    if "--json" in sys.argv:
        import json

        text = json.dumps({"error": {"code": number, "message": message, "hint": hint}}, ensure_ascii=False)
        try:
            click.echo(text.encode(errors="backslashreplace").decode())
        except OSError:
            _without_stdout()


def _without_stdout() -> None:
    """Nobody reads it, or it is full: what is still to be written there must not fail again on the way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell_os(error: OSError) -> int:
    """The file system's refusals (missing, read-only, full) are the user's turn; name the file and the mend."""
    import errno

    mends = {
        errno.ENOSPC: "the disk is full: free some room and run again; nothing was half written",
        errno.EDQUOT: "your quota is used up: free some room and run again; nothing was half written",
        errno.EFBIG: "a file may not be so large here: lift the limit (ulimit -f), or choose another file system",
        errno.EROFS: "the file system is read-only: choose a project folder you can write to",
        errno.EACCES: "you may not touch this file: mend its permissions, or choose another folder",
        errno.EPERM: "you may not touch this file: mend its permissions, or choose another folder",
        errno.ENOENT: "check the path",
        errno.EADDRINUSE: "something else listens there: choose another --port",
    }
    message = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    hint = mends.get(error.errno or 0, "see the message above")
    _as_json("HF150", message, hint)
    click.echo(f"error[HF150]: {message}", err=True)
    click.echo(f"  hint: {hint}", err=True)
    return 1


def _tell_words(error: UnicodeEncodeError) -> int:
    """Bytes of the command line that are no UTF-8 (Python keeps them as lone surrogates) fit into no name or record."""
    odd = [word for word in sys.argv[1:] if any("\udc80" <= c <= "\udcff" for c in word)]
    if not odd:
        return _tell_bug(error)
    from holdfast.core.errors import BadInput

    hint = "write it in UTF-8; files of such a name have to be renamed first"
    return _tell(BadInput(f"{odd[0]!a} is not UTF-8 text", hint=hint))


def _tell_bug(error: Exception) -> int:
    """Ours: keep the traceback in a file, show one line."""
    import tempfile
    import traceback

    if os.environ.get("HOLDFAST_TRACEBACK"):
        traceback.print_exc()
    with tempfile.NamedTemporaryFile("w", prefix="holdfast-", suffix=".log", delete=False) as f:
        traceback.print_exception(error, file=f)
    click.echo(f"error[HF900]: {type(error).__name__}: {error}", err=True)
    click.echo(f"  hint: this is a defect of Holdfast; please report it with {f.name}", err=True)
    return 2


if __name__ == "__main__":
    main()
