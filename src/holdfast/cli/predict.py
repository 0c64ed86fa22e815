"""``holdfast predict`` and ``holdfast batch``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import emit, json_option, progress, say, table

if TYPE_CHECKING:
    from holdfast.core.records import Arm
    from holdfast.workspace import Workspace


@click.command()
@click.argument("service")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option(
    "--file",
    "-f",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Rows: .json or .jsonl.",
)
@click.option(
    "--environment",
    type=click.Choice(["production", "staging"]),
    default="production",
    show_default=True,
    help="Which of its servers.",
)
@click.option("--url", help="Where the service answers.  [default: the one running in this project]")
@click.option("--key", help="Routing key.")
@click.option("--token", envvar="HOLDFAST_TOKEN", help="Access token.")
@json_option
def predict(
    service: str,
    values: tuple[str, ...],
    source: Path | None,
    environment: str,
    url: str | None,
    key: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """Ask a running SERVICE for one prediction (NAME=VALUE ...) or for the rows of a file."""
    import msgspec

    from holdfast.core.errors import BadInput

    if bool(values) == bool(source):
        raise click.UsageError("give either NAME=VALUE pairs or --file")
    rows = _rows(source) if source is not None else [dict(_pair(v) for v in values)]
    if not rows:
        raise BadInput("there are no rows", hint="a JSON list of objects, or one object a line")
    headers = {"content-type": "application/json"}
    if key:
        headers["x-holdfast-key"] = key
    if token:
        headers["authorization"] = f"Bearer {token}"
    answers: list[dict[str, Any]] = []
    address = url or _running(service, environment)
    for i in range(0, len(rows), 1000):
        answers += _post(address, msgspec.json.encode({"rows": rows[i : i + 1000]}), headers)["predictions"]

    def draw() -> None:
        names = ["id", "output", "score", "version", "arm", "logged"]
        table(names, [[a[n] for n in names] for a in answers])

    emit({"predictions": answers}, as_json=as_json, text=draw)


@click.command()
@click.argument("model")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--at", help="Column with the instant each row's features are looked up for.  [default: now]")
@click.option("--keep/--only-scores", default=True, show_default=True, help="Carry the input's columns over.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the model.  [default: all cores]")
@json_option
def batch(
    model: str, source: Path, target: Path, at: str | None, keep: bool, threads: int | None, as_json: bool
) -> None:
    """Score SOURCE (Parquet or CSV) into TARGET (Parquet) with MODEL: name@version, or a service's champion."""
    import os

    from holdfast.server.dataplane import loader
    from holdfast.serving.batch import score_file
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        arm = _arm(workspace, model)
        loaded = loader(workspace, threads=threads or os.cpu_count() or 1)(arm)
        loaded.warm()
        with progress(f"scoring with version {arm.version}", quiet=as_json) as report:
            scored = score_file(loaded, source, target, now=workspace.clock.now(), at=at, keep=keep, progress=report)
    emit(
        {"rows": scored.rows, "path": str(scored.path), "version": arm.version},
        as_json=as_json,
        text=lambda: say(f"{scored.rows} rows → {target}"),
    )


def _arm(workspace: Workspace, model: str) -> Arm:
    from holdfast.core.records import Arm
    from holdfast.registry import versions
    from holdfast.serving import release_file

    if "@" not in model:
        folder = workspace.home / "releases"
        release = release_file.read(folder, model, "production", workspace.secret("release"))
        if release is not None and release.champion is not None:
            return release.champion
    found = versions.resolve(workspace.ledger, model)
    return Arm(version=found.version, content=found.content)


def _running(service: str, environment: str) -> str:
    """The address a `holdfast serve` of this project wrote down."""
    import msgspec

    from holdfast.core.errors import Unavailable
    from holdfast.core.project import find_root

    path = find_root() / ".holdfast" / "run" / f"{service}-{environment}.json"
    try:
        return str(msgspec.json.decode(path.read_bytes())["address"])
    except FileNotFoundError:
        raise Unavailable(
            f"{service!r} is not being served here", hint=f"start it with `holdfast serve {service}`, or give --url"
        ) from None


def _post(address: str, body: bytes, headers: dict[str, str]) -> Any:
    import urllib.error
    import urllib.request

    import msgspec

    from holdfast.core.errors import BadInput, Unavailable

    if not address.startswith(("http://", "https://")):
        raise BadInput(f"{address!r} is not an address", hint="write it like http://127.0.0.1:8080")
    request = urllib.request.Request(address.rstrip("/") + "/predict", body, headers)  # noqa: S310 - scheme checked above
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return msgspec.json.decode(answer.read())
    except urllib.error.HTTPError as refused:
        try:
            problem = msgspec.json.decode(refused.read())["error"]
        except (msgspec.MsgspecError, KeyError, TypeError):
            raise Unavailable(f"{address} answered {refused.code}") from None
        kind = Unavailable if refused.code >= 500 else BadInput
        raise kind(problem["message"], hint=problem.get("hint"), number=problem["code"]) from None
    except (urllib.error.URLError, OSError) as problem:
        raise Unavailable(
            f"{address} cannot be reached: {getattr(problem, 'reason', problem)}", hint="is it running?"
        ) from None


def _pair(text: str) -> tuple[str, Any]:
    """``name=value``; the value is JSON where it reads as such, else text."""
    import msgspec

    name, separator, value = text.partition("=")
    if not separator:
        raise click.UsageError(f"{text!r} is not NAME=VALUE")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.MsgspecError:
        return name, value


def _rows(source: Path) -> list[dict[str, Any]]:
    import msgspec

    from holdfast.core.errors import BadInput

    data = source.read_bytes()
    try:
        if source.suffix in (".jsonl", ".ndjson"):
            return [msgspec.json.decode(line) for line in data.splitlines() if line.strip()]
        value = msgspec.json.decode(data)
    except msgspec.MsgspecError as problem:
        raise BadInput(f"{source} is not JSON: {problem}", hint="tables go through `holdfast batch`") from None
    if isinstance(value, dict):
        value = value.get("rows", [value])
    return list(value)
