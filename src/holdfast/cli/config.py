"""`holdfast config`: every setting, its value, and where that came from."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.cli.output import emit, json_option, say, table
from holdfast.core.project import find_root
from holdfast.settings import FILE, flat, load, shown, variable


@click.command()
@json_option
def config(as_json: bool) -> None:
    """Show every setting and where its value came from; secrets are masked.

    Precedence: defaults < holdfast.toml < its [environments.NAME] table (--env) < HOLDFAST_… variables < options.
    """
    root = find_root(Path.cwd())
    loaded = load(root)
    values = flat(loaded.settings)
    for notice in loaded.notices:
        say(f"notice: {notice}")

    def text() -> None:
        there = "" if (root / FILE).exists() else " (not there: defaults)"
        environment = f", environment {loaded.environment}" if loaded.environment else ""
        say(f"{root / FILE}{there}{environment}")
        rows = [(key, _words(shown(key, value)), loaded.origins[key]) for key, value in values.items()]
        table(("setting", "value", "from"), rows)

    emit(
        {
            "project": str(root),
            "environment": loaded.environment,
            "settings": {
                key: {"value": shown(key, value), "from": loaded.origins[key], "variable": variable(key)}
                for key, value in values.items()
            },
            "notices": loaded.notices,
        },
        as_json=as_json,
        text=text,
    )


def _words(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(str(v) for v in value) or None
    return value
