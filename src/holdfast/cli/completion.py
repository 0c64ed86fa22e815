"""`holdfast completion`: a script that teaches the shell the commands."""

from __future__ import annotations

import os
from pathlib import Path

import click

WAYS = {
    "bash": 'eval "$(holdfast completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(holdfast completion zsh)"    # in ~/.zshrc',
    "fish": "holdfast completion fish > ~/.config/fish/completions/holdfast.fish",
}


@click.command(epilog="\b\n" + "\n".join(WAYS.values()))
@click.argument("shell", type=click.Choice(sorted(WAYS)), required=False)
def completion(shell: str | None) -> None:
    """Print a completion script for SHELL (the one in $SHELL unless given)."""
    from click.shell_completion import get_completion_class

    from holdfast.cli.main import cli
    from holdfast.core.errors import BadInput

    shell = shell or Path(os.environ.get("SHELL", "")).name
    made = get_completion_class(shell)
    if made is None or shell not in WAYS:
        raise BadInput(f"no completion for the shell {shell!r}", hint=f"name one: {', '.join(sorted(WAYS))}")
    click.echo(made(cli, {}, "holdfast", "_HOLDFAST_COMPLETE").source())
