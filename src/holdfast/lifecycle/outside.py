"""The gate for a version that came without a project (an MLflow client logged it): measured on a file of rows.

Nothing of the file is trusted to be held out but the caller's word, and the verdict's evidence says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from holdfast.core.definitions import Gate, Rule, Service
from holdfast.core.errors import BadData, BadInput, NotFound
from holdfast.core.identity import canonical
from holdfast.core.records import FieldSpec, ModelVersion, Package, Verdict
from holdfast.registry.foreign import Task

if TYPE_CHECKING:
    import pyarrow as pa

    from holdfast.validation.served import Served
    from holdfast.workspace import Workspace


def check_file(
    ws: Workspace,
    version: ModelVersion,
    gate: Gate,
    *,
    data: Path,
    label: str,
    task: Task = "binary",
    threshold: float | None = None,
    service: Service | None = None,
    at: int,
) -> Verdict:
    """Measure ``version`` by ``gate`` on the rows of a CSV or parquet file, attach the verdict, return it.

    The model's columns are those its signature names, else all columns but the label and those the gate groups by, in
    the file's order. Empty cells are missing values. A version that is a package is also asked through a real server,
    where a rule wants that.

    Args:
        service: whose version it is: its champion is compared with, and a decision record is made.

    Raises:
        NotFound: no such file, or it lacks a column.
        BadData: a column of the model is not numbers.
        BadInput, NotTrusted: the version holds no model the gate can load.
    """
    from holdfast import formats
    from holdfast.lifecycle import decision, layers, measure
    from holdfast.registry import package as packages
    from holdfast.registry import versions, waivers
    from holdfast.validation import evidence
    from holdfast.validation.gate import decide

    if not gate.rules:
        raise BadInput(
            f"there are no rules to measure {version.name}@{version.version} by",
            hint="declare a gate for it, or give --rule",
        )
    table = read(data)
    groups = {str(r.options["group"]) for r in gate.rules if r.options.get("group")}
    require_columns(table, (label, *groups), data)
    others = [c for c in table.column_names if c != label and c not in groups]
    package = manifest(ws, version, columns=others, task=task, threshold=threshold)
    columns = [f.name for f in package.inputs]
    require_columns(table, columns, data)
    folder = packages.unpack(ws.objects, package, ws.path("packages", version.content))
    may_run = vouched(ws, package, folder)
    predictor = formats.load(folder, package, trusted=may_run)
    compiled = package.original_file not in (None, package.model_file)
    X = np.column_stack([numbers(table, c, data) for c in columns])  # noqa: N806
    champion = ("", None, None) if service is None else measure.champion_on(ws, service.name, columns, X)
    context = evidence.Context(
        predictor=predictor,
        original=formats.load(folder, package, original=True, trusted=may_run) if compiled else None,
        package=package,
        X=X,
        champion=champion[0],
        champion_scores=champion[1],
        champion_threshold=champion[2],
        served=_served(ws, gate.rules, version, package, X, at=at),
        layers={} if service is None else layers.of(ws, service.model, at=at),
        y=_labels(table, label, data),
        groups={g: np.asarray(table[g].to_pylist(), dtype=object) for g in groups},
        folder=folder,
        threshold=package.threshold,
        trusted=may_run,
    )
    measured = [*evidence.measure(context, gate.rules), *evidence.always(context, gate.rules)]
    verdict = decide(
        measured,
        gate.rules,
        model=version.name,
        version=version.version,
        content=version.content,
        at=at,
        waivers=waivers.active(ws.ledger, version.name, version.version, at=at),
    )
    ws.objects.put(canonical([msgspec.to_builtins(e) for e in measured]))
    versions.attach_verdict(ws.ledger, verdict, at=at, actor=ws.actor)
    if service is not None:
        why = decision.make(ws, service.model, version, context, verdict, evidence=measured, at=at)
        decision.store(ws.ledger, why, decision.put(ws, why), version, at=at, actor=ws.actor)
    return verdict


def _served(
    ws: Workspace,
    rules: Sequence[Rule],
    version: ModelVersion,
    package: Package,
    X: Any,  # noqa: N803
    *,
    at: int,
) -> Served | None:
    """What a real server of the version answers to the rows, where a rule asks for it and the version can be served so."""
    from holdfast.lifecycle import probe

    if not probe.wanted(rules) or package.golden_file is None or package.plan is not None:
        return None
    index = np.linspace(0, len(X) - 1, min(probe.ROWS, len(X))).astype(np.int64)
    names = [f.name for f in package.inputs]
    requests = [{n: None if np.isnan(v) else v for n, v in zip(names, row, strict=True)} for row in X[index].tolist()]
    return probe.ask(ws, version, package, requests, [at] * len(index))


def rules_from_text(texts: Sequence[str]) -> Gate:
    """A gate from rules as people type them: ``accuracy>=0.9``, ``log_loss<=0.3``.

    Raises:
        BadInput: not a rule.
    """
    import re

    from holdfast.core.definitions import at_least, at_most

    rules: list[Rule] = []
    for text in texts:
        match = re.fullmatch(r"\s*([a-z_0-9]+)\s*(>=|<=)\s*([0-9.eE+-]+)\s*", text)
        try:
            if match is None:
                raise ValueError
            value = float(match[3])
        except ValueError:
            raise BadInput(f"{text!r} is no rule", hint="write it like accuracy>=0.9 or log_loss<=0.3") from None
        rules.append(at_least(match[1], value) if match[2] == ">=" else at_most(match[1], value))
    return Gate(*rules)


def manifest(
    ws: Workspace, version: ModelVersion, *, columns: Sequence[str], task: Task, threshold: float | None = None
) -> Package:  # fmt: skip
    """The package of a version; for one that came without, what is known of it, its inputs being ``columns`` where its
    signature names none."""
    from holdfast.registry import foreign, waivers
    from holdfast.registry import package as packages

    try:
        return packages.load(ws.objects, version.content)
    except BadInput:
        named = foreign.input_names(ws.objects, version.content) or list(columns)
    return foreign.as_package(
        ws.objects,
        version.content,
        name=version.name,
        inputs=[FieldSpec(name=n, dtype="float64") for n in named],
        task=task,
        threshold=threshold if threshold is not None or task != "binary" else 0.5,
        classes=[0, 1] if task == "binary" else (),
        run_id=version.run_id,
        trusted=lambda value: waivers.trusted(ws.ledger, value),
    )


def vouched(ws: Workspace, package: Package, folder: Path) -> Callable[[str], bool]:
    """Whether bytes of the package may run code: this store signed them, or a person trusts them."""
    from holdfast.registry import package as packages
    from holdfast.registry import waivers

    return packages.vouched(package, folder, ws.secret("package"), also=lambda value: waivers.trusted(ws.ledger, value))


def require_columns(table: pa.Table, names: Iterable[str], path: Path) -> None:
    """Raises:
    NotFound: the file lacks a column."""
    for name in names:
        if name not in table.column_names:
            raise NotFound.among(f"column of {path.name}", name, table.column_names)


def read(path: Path) -> pa.Table:
    """The rows of a CSV or parquet file.

    Raises:
        NotFound: no such file. BadData: it cannot be read, or has no rows.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if not path.is_file():
        raise NotFound(f"there is no file {path}", hint="give a CSV or parquet file with --data")
    try:
        table = pa.parquet.read_table(path) if path.suffix == ".parquet" else pa.csv.read_csv(path)
    except pa.ArrowInvalid as error:
        raise BadData(f"{path.name} cannot be read: {str(error)[:200]}", hint="give a CSV or parquet file") from None
    if table.num_rows == 0:
        raise BadData(f"{path.name} has no rows")
    return table


def numbers(table: pa.Table, name: str, path: Path) -> Any:
    """A column (n,) as float64, NaN for null.

    Raises:
        BadData: it is not numbers.
    """
    import pyarrow as pa

    try:
        column = table[name].cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise BadData(
            f"column {name!r} of {path.name} is not numbers", hint="the gate feeds numbers; encode it first"
        ) from None
    return column.to_numpy(zero_copy_only=False)


def _labels(table: pa.Table, name: str, path: Path) -> Any:
    column = table[name]
    if column.null_count:
        raise BadData(
            f"{column.null_count} rows of {path.name} have no {name!r}", hint="leave out rows without a label"
        )
    return np.asarray(column.to_pylist())
