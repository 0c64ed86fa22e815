"""docs/gate.md: its gate can be declared, its commands are commands, and it names every rule there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from holdfast.cli.main import cli
from holdfast.core import gates
from holdfast.core.definitions import Gate
from holdfast.stats import metrics, ranking
from holdfast.validation.evidence import CHECKS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gate.md").read_text(encoding="utf-8")
COMMANDS = [
    line[2:]
    for block in re.findall(r"```console\n(.*?)```", PAGE, flags=re.S)
    for line in block.splitlines()
    if line.startswith("$ ")
]


def test_the_gate_can_be_declared() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    scope: dict[str, object] = {}
    exec(block, scope)
    gate = scope["gate"]
    assert isinstance(gate, Gate) and gate.decision_record
    assert {rule.check for rule in gate.rules} <= set(CHECKS)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_are_commands(line: str) -> None:
    """Parsed, not run: every option and argument is one the command has."""
    words = shlex.split(line)
    assert words.pop(0) == "holdfast"
    command: click.Command = cli
    context = click.Context(cli, info_name="holdfast")
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words[0]
        command, context = found, click.Context(found, info_name=words.pop(0), parent=context)
    command.make_context(command.name, words, parent=context.parent)


def test_every_rule_and_metric_is_named() -> None:
    rules = set(gates.__all__) - {"Duration", "Gate", "Rule", "digest_of"}
    table = "\n".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))
    assert rules == set(re.findall(r"`(\w+)`", table))
    for name in (*metrics.METRICS, *ranking.NAMES):
        assert re.search(rf"\b{name}\b", PAGE), name
