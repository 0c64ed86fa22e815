"""Groups of commands: their help says what each command does, whole."""

from __future__ import annotations

import click

_WHOLE = 10_000
"""Click cuts a command's line at the terminal's width otherwise, in the middle of the sentence."""


class Group(click.Group):
    """Lists the first sentence of each command, over as many lines as it takes."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [(name, c.get_short_help_str(_WHOLE)) for name, c in commands.items() if c is not None and not c.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
