"""What every command pays for: importing the package and showing help must load nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

HEAVY = {
    "numpy", "pandas", "pyarrow", "duckdb", "polars", "sklearn", "scipy", "onnxruntime", "onnx", "skops", "sqlalchemy", "alembic",
    "starlette", "uvicorn", "lmdb", "obstore", "redis", "psycopg", "pandera", "jinja2", "rich", "mlflow", "ruamel", "asyncio",
}  # fmt: skip


def loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint('\\n'.join(sorted(sys.modules)), file=sys.stderr)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name.partition(".")[0] for name in done.stderr.splitlines()}


@pytest.mark.parametrize(
    "code",
    [
        "import holdfast",
        "import holdfast; holdfast.FeatureView; holdfast.Service",
        "from holdfast.cli.main import cli\ntry:\n    cli.main(['--help'], standalone_mode=False)\nexcept SystemExit:\n    pass",
        "from holdfast.cli.main import main\ntry:\n    main(['trian'])\nexcept SystemExit:\n    pass",
    ],
    ids=["import", "definitions", "help", "did you mean"],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert loaded(code) & HEAVY == set()


def test_every_command_loads_and_has_help() -> None:
    """Each entry of the table leads to a command whose help says what it does."""
    from click.testing import CliRunner

    from holdfast.cli.main import COMMANDS, cli

    for name, (_, _, line) in COMMANDS.items():
        result = CliRunner().invoke(cli, [name, "--help"], catch_exceptions=False)
        assert result.exit_code == 0, name
        assert "Usage:" in result.output and line


def _commands(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _commands(below, *path, name)


def test_every_command_and_option_says_what_it_does_in_whole_sentences() -> None:
    from holdfast.cli.main import cli

    for name, command in _commands(cli):
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (name, parameter.name)
        if isinstance(command, click.Group):
            lines = command.get_help(click.Context(command, info_name=name)).splitlines()
            assert not [line for line in lines if line.endswith("...") and "Usage:" not in line], name


def test_the_public_face_is_what_all_says() -> None:
    import holdfast

    assert sorted(holdfast.__all__) == sorted(set(holdfast.__all__))
    for name in holdfast.__all__:
        assert getattr(holdfast, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        _ = holdfast.nothing_of_the_kind
