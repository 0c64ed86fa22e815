"""``holdfast labels``: add and count the truth for predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.group import Group
from holdfast.cli.output import emit, json_option, progress, say, table

if TYPE_CHECKING:
    from holdfast.core.records import LabelRecord

BATCH = 50_000


@click.group(cls=Group)
def labels() -> None:
    """Add and count the truth for predictions."""


@labels.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--service", "-s", required=True, help="The service whose predictions these are.")
@click.option("--id", "id_column", default="prediction_id", show_default=True, help="Column with the prediction's id.")
@click.option("--value", "value_column", default="value", show_default=True, help="Column with the truth.")
@click.option(
    "--at", "at_column", help="Column with the instant the truth was known (default: a column `at` if there, else now)."
)
@click.option("--source", default="", help="Where these labels come from.")
@json_option
def add(
    file: Path, service: str, id_column: str, value_column: str, at_column: str | None, source: str, as_json: bool
) -> None:
    """Add labels from FILE (.csv, .parquet or .jsonl). Adding a file twice changes nothing; a later instant wins."""
    from holdfast.monitoring.labels import LabelStore
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        _known(workspace, service)
        records, unlabelled = _records(_load(file), id_column, value_column, at_column, source, workspace.clock.now())
        store = LabelStore(workspace.path("labels", service))
        with progress("labels", quiet=as_json) as report:
            for start in range(0, len(records), BATCH):
                store.append(records[start : start + BATCH])
                report(min(start + BATCH, len(records)), len(records), "added")
    if unlabelled:
        say(f"{unlabelled} rows without a value were left out")
    emit(
        {"added": len(records), "without_value": unlabelled},
        as_json=as_json,
        text=lambda: click.echo(f"{len(records)} labels added to {service}"),
    )


@labels.command()
@click.argument("service", required=False)
@json_option
def count(service: str | None, as_json: bool) -> None:
    """How many labels there are, for SERVICE or for every service."""
    from holdfast.monitoring.labels import LabelStore
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        if service:
            _known(workspace, service)
        home = workspace.path("labels")
        names = [service] if service else sorted(p.name for p in home.iterdir() if p.is_dir()) if home.is_dir() else []
        rows = [{"service": name, **LabelStore(home / name).count()} for name in names]
    emit(
        rows,
        as_json=as_json,
        text=lambda: table(
            ["service", "added", "predictions"], [[r["service"], r["added"], r["predictions"]] for r in rows]
        ),
    )


def _known(workspace: Any, service: str) -> None:
    """The service is declared, or has answered: a typing error must not open a store of its own."""
    from holdfast.core.errors import NotFound
    from holdfast.core.identity import check_name

    check_name(service, "service")
    if any((workspace.home / place / service).is_dir() for place in ("labels", "predictions")):
        return
    services = workspace.project().services
    if service not in services:
        raise NotFound.among("service", service, services)


def _load(file: Path) -> Any:
    import pyarrow as pa

    from holdfast.core.errors import BadInput

    kind = file.suffix.lower()
    try:
        if kind == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(file)
        if kind == ".csv":
            import pyarrow.csv as csv

            return csv.read_csv(file)
        if kind in (".jsonl", ".ndjson"):
            import pyarrow.json as pj

            return pj.read_json(file)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BadInput(
            f"{file}: {str(error).splitlines()[0]}", hint="the file must be a table with one row per label"
        ) from None
    raise BadInput(f"{file}: a {kind or 'nameless'} file cannot be read", hint="give a .csv, .parquet or .jsonl file")


def _records(
    data: Any, id_column: str, value_column: str, at_column: str | None, source: str, now: int
) -> tuple[list[LabelRecord], int]:
    import math

    from holdfast.core.errors import BadInput, did_you_mean
    from holdfast.core.identity import to_us
    from holdfast.core.records import LabelRecord

    names = data.column_names
    for column in (id_column, value_column, *([at_column] if at_column else [])):
        if column not in names:
            raise BadInput(f"the file has no column {column!r}", hint=did_you_mean(column, names, kind="column"))
    at_column = at_column or ("at" if "at" in names else None)
    ids, values = data[id_column].to_pylist(), data[value_column].to_pylist()
    instants = data[at_column].to_pylist() if at_column else [now] * len(ids)
    records, left_out = [], 0
    for row, (key, value, at) in enumerate(zip(ids, values, instants, strict=True), start=1):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            left_out += 1
        elif key is None or at is None:
            raise BadInput(f"row {row} has no {'id' if key is None else 'instant'}", hint="every label needs both")
        elif not isinstance(value, bool | int | float | str):
            raise BadInput(f"row {row}: {value!r} cannot be a label", hint="a label is a number, a text or a boolean")
        else:
            records.append(LabelRecord(prediction_id=str(key), value=value, at=to_us(at), source=source))
    return records, left_out
