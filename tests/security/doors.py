"""Every door: each route of the control plane (from its table), each command (from the click tree), each public function
of the modules that move approvals and traffic. What is added to one of the three is tried without being named here.

``python -m tests.security.doors FOLDER WORLDS [KIND …]`` tries each in that many worlds (``all``: in every one) and prints what
got through, as JSON; run with ``-O`` too.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
from click.testing import CliRunner
from starlette.testclient import TestClient

import holdfast as hf
from holdfast.cli.main import cli
from holdfast.core.errors import HoldfastError
from holdfast.core.records import ABTest, Arm, ModelVersion, Release, Verdict, Waiver
from holdfast.lifecycle import approval, release
from holdfast.protocols.mlflow import app as mlflow
from holdfast.registry.approval import Terms
from holdfast.server.controlplane import application
from holdfast.workspace import Workspace
from tests.security import world

MODULES = (
    "holdfast.registry.pointers", "holdfast.registry.versions", "holdfast.lifecycle.release", "holdfast.lifecycle.abtest",
    "holdfast.lifecycle.staged", "holdfast.lifecycle.rollouts", "holdfast.lifecycle.way_back", "holdfast.lifecycle.judge",
    "holdfast.lifecycle.loop", "holdfast.lifecycle.candidate", "holdfast.lifecycle.sources", "holdfast.lifecycle.build",
    "holdfast.lifecycle.fit", "holdfast.lifecycle.register", "holdfast.lifecycle.measure", "holdfast.lifecycle.outside", "holdfast.lifecycle.adopt",
    "holdfast.lifecycle.notebook",
)  # fmt: skip
# Commands that listen until they are stopped. What they would do is tried through the routes and the functions.
LISTENERS = {"serve", "up", "server", "features serve", "loop run"}
# Functions that start processes or wait; deploy reaches them through the command line.
PROCESSES = {"fleet", "wait_loaded", "smoke", "run"}


# Where a parameter without a value fails the proof: these modules' business is to move approvals and traffic.
MOVERS = (
    "holdfast.registry.pointers",
    "holdfast.registry.versions",
    "holdfast.lifecycle.release",
    "holdfast.lifecycle.staged",
    "holdfast.lifecycle.rollouts",
    "holdfast.lifecycle.way_back",
    "holdfast.lifecycle.abtest",
)
# Reads, which want more of the world than is here.
READS = {"status"}


KINDS = ("routes", "commands", "functions")


class Untaught(Exception):
    """A parameter the proof has no value for: whoever adds a door says here what it takes."""


class Door(NamedTuple):
    """One way in: its name, and what opens it in a world that is armed. True when nothing refused."""

    name: str
    open: Callable[[Workspace], bool]


# --- routes -----------------------------------------------------------------------------------------------------------

_VALUES: dict[str, list[Any]] = {
    "name": ["fraud"], "version": [str(world.TARGET)], "stage": ["Production", "production"], "alias": ["champion", "Champion"],
    "new_name": ["other"], "archive_existing_versions": [True, False], "source": [f"models:/fraud/{world.TARGET}"],
    "key": ["stage"], "value": ["Production"], "description": ["Production"], "stages": [["Production"]], "tags": [[]],
    "path": ["x"], "experiment_id": ["0"], "max_results": [10],
}  # fmt: skip


def routes(ws: Workspace, http: TestClient) -> Iterator[Door]:
    """Each route with each likely value of each field, asked as somebody who may approve."""
    for route in mlflow.ROUTES:
        names = list(route.fields)
        choices = [_VALUES.get(n, [_plain(route.fields[n].type)]) for n in names]
        if "new_name" in names and "name" in names:
            choices[names.index("name")] = ["fraud", "free"]
        for values in itertools.product(*choices):
            body = dict(zip(names, values, strict=True))
            path = route.path.replace("{", "").replace("}", "")
            yield Door(f"{route.method} {route.path} {body}", _call(http, route.method, path, body))
    for method, path in (
        ("PUT", mlflow.ARTIFACTS + "0/r/artifacts/x"), ("DELETE", mlflow.ARTIFACTS + "0/r"), ("GET", "/health"), ("GET", "/version"),
        ("POST", mlflow.UPLOAD), ("GET", "/get-artifact"), ("GET", "/model-versions/get-artifact"),
    ):  # fmt: skip
        yield Door(f"{method} {path}", _call(http, method, path, {}))


def _plain(kind: str) -> Any:
    return {"int": 1, "bool": True, "strings": ["x"], "objects": [], "object": {}, "float": 1.0, "number": 1.0}.get(
        kind, "x"
    )


def _call(http: TestClient, method: str, path: str, body: dict[str, Any]) -> Callable[[Workspace], bool]:
    def call(ws: Workspace) -> bool:
        if method == "GET":
            return http.get(path, params={k: v for k, v in body.items() if isinstance(v, str | int)}).status_code < 400
        return http.request(method, path, json=body).status_code < 400

    return call


# --- commands ---------------------------------------------------------------------------------------------------------


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(command)
    if isinstance(command, click.Group):
        if command.invoke_without_command and path:
            yield " ".join(path), command
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                yield from _commands(found, (*path, name))
    else:
        yield " ".join(path), command


def _words(parameter: click.Parameter, scratch: Path) -> list[str]:
    """What somebody who wants the target in production would give for a parameter."""
    name = parameter.name or ""
    if isinstance(parameter.type, click.Choice):
        return [str(c) for c in parameter.type.choices]
    if isinstance(parameter.type, click.types.FloatRange | click.types.IntRange) or parameter.type.name in (
        "float",
        "integer",
    ):
        return ["100"]
    if name in ("reference", "version"):
        return [f"fraud@{world.TARGET}", "fraud@Staging"]
    if name in ("model", "service", "services", "name", "owner"):
        return ["fraud", f"fraud@{world.TARGET}"]
    if name in ("data", "file", "source"):
        return ["rows.csv"]
    if name in ("target", "folder", "output", "out", "junit", "markdown", "html", "to", "targets", "repository"):
        return [str(scratch / f"{name}-{random.randrange(10**9)}")]
    named = {
        "definitions": "lax.py", "rules": "accuracy>=0", "label": "y", "alias": "champion", "alias_": "champion", "until": "7d",
        "check": "accuracy", "base": "python@sha256:" + "0" * 64, "url": "http://127.0.0.1:9", "metric": "label",
        "wheel": "rows.csv", "lock_file": "rows.csv", "host": "127.0.0.1", "tag": "x",
    }  # fmt: skip
    return [named.get(name, "x")]


def commands(ws: Workspace, scratch: Path) -> Iterator[Door]:
    """Each command with what it needs, then also with each of its options, one at a time."""
    for name, command in _commands(cli):
        if name in LISTENERS:
            continue
        needed = [
            p
            for p in command.params
            if p.required or (isinstance(p, click.Argument) and p.name in ("service", "services", "name"))
        ]
        options = [p for p in command.params if isinstance(p, click.Option) and not p.required and p.name != "help"]
        pairs: list[list[click.Option]] = [[], *([o] for o in options)]
        if name == "check":
            by = {o.name: o for o in options}
            pairs += [
                [by["data"], by["label"]],
                [by["data"], by["label"], by["definitions"]],
                [by["data"], by["label"], by["rules"]],
            ]
        if name == "image":
            pairs = [p for p in pairs if not any(o.name == "build" for o in p)]
        for given in pairs:
            for values in itertools.product(*[_words(p, scratch) for p in needed]):
                words = [*name.split()]
                for parameter, value in zip(needed, values, strict=True):
                    words += [parameter.opts[0], value] if isinstance(parameter, click.Option) else [value]
                for option in given:
                    words += [option.opts[0]] if option.is_flag else [option.opts[0], _words(option, scratch)[-1]]
                yield Door("holdfast " + " ".join(words), _run(words))


def _run(words: list[str]) -> Callable[[Workspace], bool]:
    def run(ws: Workspace) -> bool:
        before = Path.cwd()
        os.chdir(ws.root)
        try:
            return CliRunner().invoke(cli, words, standalone_mode=False).exit_code == 0
        finally:
            os.chdir(before)

    return run


# --- functions --------------------------------------------------------------------------------------------------------


def functions(*, slow: bool) -> Iterator[Door]:
    """Each public function of ``MODULES`` that is given a store; ``slow``: also of those that would train, measure and tick."""
    for module in MODULES:
        loaded = importlib.import_module(module)
        for name, function in inspect.getmembers(loaded, inspect.isfunction):
            if name.startswith("_") or function.__module__ != module or name in PROCESSES:
                continue
            parameters = inspect.signature(function).parameters
            if not {"ws", "ledger", "tx"} & set(parameters) or (module not in MOVERS and not slow):
                continue
            for wish in range(3):
                yield Door(f"{module}.{name} #{wish}", _apply(function, parameters, wish))


def _apply(function: Any, parameters: Any, wish: int) -> Callable[[Workspace], bool]:
    def apply(ws: Workspace) -> bool:
        needed = [p for p in parameters.values() if p.default is p.empty or p.name in ("archive_existing", "number")]
        with ws.ledger.transaction() if "tx" in parameters else _nothing() as tx:
            values = {p.name: _value(p.name, ws, tx, wish, function.__name__) for p in needed}
            positional = [values.pop(p.name) for p in needed if p.kind is not p.KEYWORD_ONLY]
            function(*positional, **values)
        return True

    return apply


class _nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None: ...


@cache
def _service(ws: Workspace) -> hf.Service:
    return ws.project().services["fraud"]


def _value(name: str, ws: Workspace, tx: Any, wish: int, function: str) -> Any:
    """What a caller who wants the target in production would give.

    Raises:
        Untaught: it is not known what the parameter takes.
    """
    now = ws.clock.now()
    held = world.content(ws)
    target = ModelVersion(name="fraud", version=world.TARGET, content=held, run_id=None)
    arm_ = Arm(version=world.TARGET, content=held, weight=100.0)
    one = Arm(version=1, content=world.content(ws, 1), weight=100.0)
    service = _service(ws)
    terms: Terms = approval.terms_of(ws, service)
    wanted = Release(service="fraud", model="fraud", environment="production", sequence=0, champion=one)
    releases = [
        msgspec.structs.replace(wanted, champion=arm_),
        msgspec.structs.replace(wanted, challenger=msgspec.structs.replace(arm_, weight=50.0)),
        msgspec.structs.replace(wanted, shadow=arm_),
    ]
    rollout = release.rollout_of(ws.ledger, "fraud") if tx is None else None
    test = ABTest(
        id="t1",
        service="fraud",
        model="fraud",
        version=world.TARGET,
        content=held,
        control=1,
        weight=50.0,
        plan={},
        started=1,
    )
    by_name: dict[str, Any] = {
        "ws": ws, "ledger": ws.ledger, "tx": tx, "at": now, "now": now, "actor": "mallory", "reason": "now", "holder": "h",
        "name": "fraud", "new_name": "other", "version": world.TARGET, "stage": ["Production", "production", "PRODUCTION"][wish],
        "alias": ["champion", "Champion", "CHAMPION"][wish], "policy": terms, "under": terms, "content": held, "run_id": None,
        "archive_existing": wish > 0, "number": None, "weight": [100.0, 50.0, 10.1][wish], "service": service, "environment": "production",
        "change": releases[wish], "release": releases[wish], "rollout": rollout or world.rollout(ws, now),
        "test": test, "action": ["promote", "promote", "abort"][wish],
        "declared": hf.ABTest("label", effect=0.1, baseline=0.5), "reference": f"fraud@{world.TARGET}", "description": "Production", "tag": "stage",
        "value": "Production", "stages": ["Production"], "model": service.model, "cycle": "c", "record": None, "fit_outcome": {}, "as_of": now,
        "datasets": {}, "gate": service.gate, "data": ws.root / "rows.csv", "label": "y", "estimator": None, "X": [[0.0, 0.0]], "rows": None,
        "predictor": None, "models": ["fraud"], "verdict": msgspec.convert(world.verdict(target, outcome="fail"), Verdict),
        "services": [service], "order": None, "key": "k", "which": "test", "texts": ["accuracy>=0"],
        "share": 0.1, "task": "binary", "least": 1, "metric": "accuracy", "source": ws.root / "rows.csv", "columns": ["a", "b"],
        "waiver": Waiver(check="accuracy", by="m", reason="r", until=now + 10**9, model="fraud", version=world.TARGET),
    }  # fmt: skip
    if name == "service" and function in (
        "current", "rollout_of", "history", "champions_before", "rollback", "of", "project_files",
        "require_no_other", "note_live_features", "cycles", "carry_on_name",
    ):  # fmt: skip
        return "fraud"
    if name == "name" and function == "rename":
        return ["free", "fraud", "free"][wish]
    if name == "policy" and function == "rename":
        return approval.terms_of_model(ws, "other")
    if name == "version" and function in (
        "begin",
        "stage",
        "smoke",
        "require_production",
        "missing_for_production",
        "check",
        "check_file",
        "adopt",
        "require_package",
    ):
        return target
    if name == "model" and function == "note_live_features":
        return "fraud"
    if name not in by_name:
        raise Untaught(f"{function}: what does {name!r} take? Say so in tests/security/doors.py")
    return by_name[name]


# --- trying them ------------------------------------------------------------------------------------------------------


class Tried(NamedTuple):
    attempts: int
    opened: int
    through: list[str]
    surprises: list[str]


def attempt(
    ws: Workspace, doors: list[Door], pairs: list[tuple[str, str]], *, each: int | None = None, seed: int = 0
) -> Tried:
    """Try doors in worlds (state, situation); ``each`` picks that many worlds per door by ``seed``, None tries all."""
    rng = random.Random(seed)
    attempts, opened, through, surprises = 0, 0, [], []
    for door in doors:
        for state, situation in pairs if each is None else rng.sample(pairs, min(each, len(pairs))):
            world.arm(ws, world.STATES.get(state, world.approved), situation)
            attempts += 1
            try:
                opened += door.open(ws)
            except HoldfastError:
                pass
            except Untaught as error:
                if door.name.startswith(MOVERS):
                    surprises.append(str(error))
            except Exception as error:
                if door.name.startswith(MOVERS) and door.name.split(" ")[0].rsplit(".", 1)[-1] not in READS:
                    surprises.append(f"{door.name}: {type(error).__name__}: {error}")
            found = world.arrived(ws, situation)
            if found:
                through.append(f"{door.name} in {state}, {situation}: {found}")
                for path in ws.root.rglob("*.production.json"):
                    path.unlink()
    return Tried(attempts, opened, through, surprises)


def everything(
    ws: Workspace, scratch: Path, kinds: tuple[str, ...] = KINDS, *, slow: bool = False
) -> dict[str, list[Door]]:
    """All doors by kind."""
    http = TestClient(application(ws), base_url="http://127.0.0.1:5000", raise_server_exceptions=False)  # type: ignore[arg-type]
    made: dict[str, Callable[[], Iterator[Door]]] = {
        "routes": lambda: routes(ws, http), "commands": lambda: commands(ws, scratch), "functions": lambda: functions(slow=slow),
    }  # fmt: skip
    return {kind: list(made[kind]()) for kind in kinds}


PAIRS = [(state, situation) for state in world.STATES for situation in world.SITUATIONS]


def main(folder: str, each: str, *kinds: str) -> None:
    root = Path(folder)
    with world.make(root / "project") as ws:
        found = {}
        for kind, doors in everything(ws, root / "scratch", kinds or KINDS, slow=each == "all").items():
            found[kind] = attempt(ws, doors, PAIRS, each=None if each == "all" else int(each))._asdict()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
