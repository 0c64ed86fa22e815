"""Data → features → training → a registered version with its evidence and verdict: the first half of a cycle.

Each function is the work of one durable step. It returns (outcome, effect): the outcome is what later steps need, the
effect writes to the ledger in the transaction that records the outcome. Files are named by the cycle's id or by content.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from holdfast.core.definitions import FeatureService, Model, Rule, Service, Source
from holdfast.core.errors import BadData, BadDefinition, BadInput, NotFound
from holdfast.core.identity import canonical, digest, duration_us, iso
from holdfast.core.ports import Ledger, Progress
from holdfast.core.records import FieldSpec, FileRef, Json, ModelVersion, Package, TrainingSet, Verdict
from holdfast.lifecycle.durable import Effect

if TYPE_CHECKING:
    import pyarrow as pa

    from holdfast.validation.served import Served
    from holdfast.workspace import Workspace

TRAINING_SETS = "training_sets"
GOLDEN_ROWS = 20
VERIFY_ROWS = 2000
ASKED_ROWS = 500
# What reads a model back; serving refuses other feature releases of these where the format depends on them.
MODEL_LIBRARIES = ("numpy", "scikit-learn", "skops", "onnxruntime", "xgboost", "lightgbm", "torch", "safetensors")


def quiet(done: int, total: int | None, what: str) -> None:
    """Progress nobody watches."""


def train(
    ws: Workspace, model: Model, *, name: str, at: int, module: str | None = None, sample: float | None = None,
    progress: Progress = quiet,
) -> Json:  # fmt: skip
    """Data → features → fit → registered version in one go, outside a cycle; ``name`` names its job folder and run.

    The steps are recorded like a cycle's, so that a killed training is carried on by calling this again with its name.
    """
    from holdfast.lifecycle.durable import Steps

    steps = Steps(ws.ledger, f"train/{name}", now=lambda: at, actor=ws.actor)
    progress(0, 4, "data")
    data = steps.once("data", lambda: admit_data(ws, model, at=at))
    progress(1, 4, "features")
    built = steps.once(
        "features", lambda: build_training_set(ws, model, as_of=at, datasets=data["datasets"], sample=sample)
    )
    record = training_set(ws.ledger, built["digest"])
    progress(2, 4, f"fit on {record.rows:,} rows")
    fitted = steps.once("fit", lambda: fit(ws, model, cycle=name, record=record, at=at, module=module))
    progress(3, 4, "package")
    source = f"train {name}" + ("" if sample is None else f", a sample of {sample:g}")
    registered = steps.once(
        "register", lambda: register(ws, model, cycle=name, record=record, fit_outcome=fitted, at=at, source=source)
    )
    progress(4, 4, "registered")
    return {
        "name": model.name,
        "version": registered["version"],
        "content": registered["content"],
        "run_id": fitted["run_id"],
        "training_set": record.digest,
        "rows": record.rows,
        "suspects": built.get("suspects", []),
        "threshold": fitted["fitted"]["threshold"],
        "candidates": fitted["fitted"]["candidates"],
    }


# --- data -------------------------------------------------------------------------------------------------------------


def sources_of(model: Model) -> dict[str, Source]:
    """Every source a model's training reads, by name."""
    found = [
        model.spine,
        model.label.source if model.label else None,
        *(v.source for v in (model.features.views if model.features else ())),
    ]
    return {s.name: s for s in found if s is not None}


def admit_data(ws: Workspace, model: Model, *, at: int) -> tuple[Json, Effect | None]:
    """Validate and version every source of the model. Bad data stays out and the version before it stays current.

    Raises:
        BadData: a source has no good version at all.
    """
    from holdfast.data import quality
    from holdfast.lifecycle import ingest

    datasets: dict[str, str] = {}
    blocked: dict[str, str] = {}
    for name, source in sources_of(model).items():
        try:
            version = ingest.bring(ws, source, at=at)
        except BadData as error:
            blocked[name] = error.message
            current = quality.current(ws.ledger, name)
            if current is None:
                raise
            version = current
        datasets[name] = version.sha256
    return {"datasets": datasets, "blocked": blocked}, None


def source_tables(ws: Workspace, source: Source) -> list[Path]:
    """The files that hold a source's rows: exactly the admitted ones, and what was pushed since."""
    from holdfast.data import quality
    from holdfast.features import push

    files = list(quality.members(ws.ledger, ws.root, source.name))
    return files + list(push.landed(ws.home, source.name))


# --- features ---------------------------------------------------------------------------------------------------------


def read_rows(ws: Workspace, source: Source, *, since: int | None = None, until: int | None = None) -> pa.Table:
    """A source's rows as Arrow, by time where asked: since <= timestamp <= until (µs)."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    files = source_tables(ws, source)
    if not files:
        raise NotFound(
            f"source {source.name!r} has no admitted data",
            hint=f"put files under {source.path} and run `holdfast data add`",
        )
    parquet = [str(f) for f in files if f.suffix != ".csv"]
    tables = [ds.dataset(parquet, format="parquet").to_table()] if parquet else []
    tables += [ds.dataset([str(f)], format="csv").to_table() for f in files if f.suffix == ".csv"]
    table = pa.concat_tables(tables, promote_options="permissive")
    if source.timestamp and (since is not None or until is not None):
        from holdfast.training.trainingset import times_us

        times = times_us(table[source.timestamp])
        keep = np.ones(len(times), dtype=bool)
        if since is not None:
            keep &= times >= since
        if until is not None:
            keep &= times <= until
        table = table.filter(pa.array(keep))
    if source.timestamp:
        table = table.take(pc.sort_indices(table, sort_keys=[(source.timestamp, "ascending")]))
    return table


def typed_requests(table: pa.Table, service: FeatureService) -> pa.Table:
    """Request values of a spine as the types the service declares; instants become int64 µs."""
    import pyarrow as pa

    from holdfast.training.trainingset import times_us

    types = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
    for name, dtype in service.request.items():
        if name not in table.column_names:
            raise NotFound.among(f"request value of service {service.name!r} in the spine", name, table.column_names)
        column = table[name]
        if pa.types.is_timestamp(column.type) and dtype == "int64":
            column = pa.array(times_us(column), type=pa.int64())
        elif dtype in types and column.type != types[dtype]:
            column = column.cast(types[dtype])
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _training_table(
    ws: Workspace, model: Model, *, as_of: int, progress: Progress = quiet,
    thin: Callable[[pa.Table], pa.Table] | None = None,
) -> tuple[pa.Table, int]:  # fmt: skip
    """(rows with their features and label, how many had no label yet); ``thin`` may leave out labelled rows."""
    from holdfast.features import point_in_time
    from holdfast.training import trainingset

    if model.spine is None or model.features is None or model.label is None:
        raise BadDefinition(f"model {model.name!r} needs features, a spine and a label to be trained by Holdfast")
    progress(0, 3, "spine")
    train = model.split.train
    reach = sum(
        duration_us(p)
        for p in (model.split.test, model.split.tune, train)
        if p is not None and not isinstance(p, float)
    )
    since = as_of - reach if train is not None else None
    spine = typed_requests(read_rows(ws, model.spine, since=since, until=as_of), model.features)
    labels = read_rows(ws, model.label.source)
    spine = trainingset.join_labels(spine, labels, model.label, as_of=as_of)
    unlabelled = spine[trainingset.LABEL].null_count
    spine = spine.filter(spine[trainingset.LABEL].is_valid())
    if spine.num_rows == 0:
        raise BadData(
            f"no row of {model.spine.name!r} has a label at {iso(as_of)}",
            hint="wait for labels, or check the label's key",
        )
    if thin is not None:
        spine = thin(spine)
    progress(1, 3, f"features of {spine.num_rows:,} rows")
    table = point_in_time.historical(
        ws.engine, model.features, spine, timestamp=str(model.spine.timestamp),
        sources={s.name: source_tables(ws, s) for s in {v.source.name: v.source for v in model.features.views}.values()},
        cache=ws.path("cache", "features", ".").parent,
    )  # fmt: skip
    progress(2, 3, "storing")
    keep = dict.fromkeys([
        *model.label.key, str(model.spine.timestamp), *([model.group] if model.group else []), *model.features.join_keys,
        *model.features.request, *model.features.columns(), trainingset.LABEL,
    ])  # fmt: skip
    return table.select(list(keep)), unlabelled


def sampled(
    ws: Workspace, model: Model, *, as_of: int, share: float, least: int
) -> tuple[TrainingSet, pa.Table]:  # fmt: skip
    """A training set of a share of the labelled rows, evenly spaced in time and at least ``least``; kept nowhere."""

    table, _ = _training_table(ws, model, as_of=as_of, thin=_thinner(share, least))
    return _described(model, table, features={}, datasets={}, content=""), table


def _thinner(share: float, least: int = 200) -> Callable[[pa.Table], pa.Table]:
    """Keeps a share of the rows, evenly spaced, at least ``least`` or all."""

    def thin(spine: pa.Table) -> pa.Table:
        wanted = min(max(int(spine.num_rows * share), least), spine.num_rows)
        return spine.take(np.linspace(0, spine.num_rows - 1, wanted).astype(np.int64))

    return thin


def _described(model: Model, table: pa.Table, **more: Any) -> TrainingSet:
    from holdfast.training import trainingset

    if model.spine is None or model.features is None:
        raise BadDefinition(f"model {model.name!r} has no spine or no features")
    columns = model.features.columns()
    return trainingset.describe(model, table, timestamp=str(model.spine.timestamp), columns=columns, **more)


def build_training_set(
    ws: Workspace, model: Model, *, as_of: int, datasets: dict[str, str], sample: float | None = None,
    progress: Progress = quiet,
) -> tuple[Json, Effect | None]:  # fmt: skip
    """Point-in-time features of every spine row known at ``as_of`` (or of a ``sample`` of them), joined with its label,
    stored by content."""
    from holdfast.training import trainingset

    thin = None if sample is None else _thinner(sample)
    table, unlabelled = _training_table(ws, model, as_of=as_of, progress=progress, thin=thin)
    content = ws.objects.put(trainingset.to_parquet(table))
    views = (*model.features.views, *model.features.on_demand) if model.features else ()
    versions = {v.name: v.version for v in views}
    record = _described(model, table, features=versions, datasets=datasets, content=content)
    progress(3, 3, f"{table.num_rows:,} rows")

    def effect(ledger: Ledger) -> None:
        with ledger.transaction() as tx:
            tx.put(TRAINING_SETS, record.digest, msgspec.to_builtins(record))
            tx.append(
                "trainingset.built", subject=model.name, at=as_of, actor=ws.actor,
                body={"digest": record.digest, "content": content, "rows": record.rows, "datasets": datasets, "features": versions},
            )  # fmt: skip

    outcome = {
        "digest": record.digest,
        "rows": record.rows,
        "unlabelled": unlabelled,
        "suspects": _suspects(model, table),
    }
    return outcome, effect


def _suspects(model: Model, table: pa.Table) -> list[str]:
    """Inputs that tell the label by themselves: said at training, judged by the gate's leakage rule."""
    from holdfast.data import suspects
    from holdfast.training import trainingset

    inputs = set(model.features.columns()) if model.features else set()
    others = [name for name in table.column_names if name not in inputs and name != trainingset.LABEL]
    return [finding.message for finding in suspects.leakage(table, trainingset.LABEL, ignore=others)]


def training_set(ledger: Ledger, name: str) -> TrainingSet:
    """The record of a training set by its digest."""
    row = ledger.get(TRAINING_SETS, name)
    if row is None:
        raise NotFound(f"no training set {name[:12]}")
    return msgspec.convert(row, TrainingSet)


class Rows:
    """A training set cut for one model: matrices, labels, times and groups of each part."""

    def __init__(self, ws: Workspace, model: Model, record: TrainingSet, table: pa.Table | None = None) -> None:
        import pyarrow.parquet as pq

        from holdfast.training import trainingset

        if model.spine is None:
            raise BadDefinition(f"model {model.name!r} has no spine")
        self.table = pq.read_table(ws.objects.fetch(record.content)) if table is None else table
        self.columns = list(record.columns)
        self.X = trainingset.matrix(self.table, self.columns)
        self.y = np.asarray(self.table[trainingset.LABEL].to_numpy(), dtype=np.float64)
        self.times = trainingset.times_us(self.table[str(model.spine.timestamp)])
        self.split = trainingset.split_by_time(self.times, ~np.isnan(self.y), model.split)
        self.group_name = model.group
        self.groups = np.asarray(self.table[model.group].to_pylist(), dtype=object) if model.group else None

    def part(self, which: str) -> tuple[Any, Any, Any]:
        """(X, y, times) of train | tune | test."""
        index = getattr(self.split, which)
        return self.X[index], self.y[index], self.times[index]


# --- fitting ----------------------------------------------------------------------------------------------------------


def run_name(cycle: str) -> str:
    """The run of a cycle's fit: derived from the step, so that a repeated fit is the same run."""
    return digest(f"{cycle}/fit")[:32]


def fit(
    ws: Workspace, model: Model, *, cycle: str, record: TrainingSet, at: int, module: str | None = None
) -> tuple[Json, Effect | None]:
    """Fit all candidates in a child process; log the run; keep the files as objects."""
    from holdfast.lifecycle import decision
    from holdfast.training import execute, fingerprint, runs

    rows = Rows(ws, model, record)
    (code, patch), environment = fingerprint.snapshot(ws.root), fingerprint.environment()
    ws.objects.put(canonical(environment))
    run_id = run_name(cycle)
    if not _known_run(ws, run_id):
        runs.start(
            ws.runs, model=model.name, at=at, actor=ws.actor, name=f"{model.name} {iso(at)}", params={**model.params, "candidates": len(model.candidates)},
            training_set=record.digest, code=code, environment=environment, seed=model.seed,
            command=["holdfast", "train", model.name, "--as-of", iso(at), *(["--definitions", module] if module else [])], run_id=run_id,
        )  # fmt: skip
        # What `holdfast reproduce` needs beside the tags.
        lock = canonical({**environment, "lock": fingerprint.lock()})
        runs.log_file(ws.runs, ws.objects, run_id, runs.ENVIRONMENT_FILE, lock, at=at)
        if patch:
            runs.log_file(ws.runs, ws.objects, run_id, runs.PATCH_FILE, patch, at=at)
    rng = np.random.default_rng(model.seed)
    sample = rows.X[np.sort(rng.choice(len(rows.X), min(VERIFY_ROWS, len(rows.X)), replace=False))]
    job = ws.path("jobs", cycle, "fit")
    try:
        fitted = execute.fit(
            ws.launcher, job, root=ws.root, module=module or ws.settings.definitions, model=model,
            train=execute.Data(*named(rows, "train")), tune=execute.Data(*named(rows, "tune")), sample=sample,
        )  # fmt: skip
    except BadDefinition:
        runs.finish(ws.runs, run_id, status="FAILED", at=at)
        raise
    best = fitted.candidates[fitted.chosen]
    metrics = {f"tune_{k}": v for k, v in best.metrics.items()} | {"fit_seconds": fitted.seconds}
    runs.log(ws.runs, run_id, metrics=metrics, params=best.params, at=at)
    runs.finish(ws.runs, run_id, status="FINISHED", at=at)
    files = {
        name: {"sha256": ws.objects.put_file(job / "model" / name), "size": (job / "model" / name).stat().st_size}
        for name in fitted.files
    }
    for path, file in files.items():
        runs.log_object(
            ws.runs, run_id, f"model/{path}", sha256=str(file["sha256"]), size=int(str(file["size"])), at=at
        )
    shutil.rmtree(job / "model", ignore_errors=True)
    (job / "arrays.npz").unlink(missing_ok=True)
    outcome = {
        "run_id": run_id, "fitted": msgspec.to_builtins(fitted), "files": files, "environment": environment["digest"],
        "python": environment["python"], "packages": {k: v for k, v in environment["packages"].items() if k in MODEL_LIBRARIES},
        "commit": code.get("commit"), "dirty": code.get("dirty"), "seconds": fitted.seconds,
    }  # fmt: skip

    def effect(ledger: Ledger) -> None:
        decision.keep_fit(ledger, run_id, outcome["fitted"])
        ledger.append(
            "run.finished", subject=model.name, at=at, actor=ws.actor,
            body={"run": run_id, "training_set": record.digest, "commit": code.get("commit"), "dirty": bool(code.get("dirty")),
                  "environment": environment["digest"]},
        )  # fmt: skip

    return outcome, effect


def _known_run(ws: Workspace, run_id: str) -> bool:
    try:
        ws.runs.get_run(run_id)
    except NotFound:
        return False
    return True


def named(rows: Rows, which: str) -> tuple[Any, Any, list[str], Any]:
    """(X, y, columns, times) of train | tune | test, as a training function is given them."""
    X, y, times = rows.part(which)  # noqa: N806
    return X, y, rows.columns, times


# --- packaging --------------------------------------------------------------------------------------------------------


def register(
    ws: Workspace, model: Model, *, cycle: str, record: TrainingSet, fit_outcome: Json, at: int, source: str = ""
) -> tuple[Json, Effect | None]:
    """Package what was fitted, with golden rows, reference profile and read plan, and register it as the next version."""
    import pyarrow as pa

    from holdfast import formats
    from holdfast.features import lookup
    from holdfast.monitoring import drift
    from holdfast.registry import package as packages
    from holdfast.registry import versions

    fitted = fit_outcome["fitted"]
    rows = Rows(ws, model, record)
    features = model.features
    files = {name: FileRef(**ref) for name, ref in fit_outcome["files"].items()}
    plan = lookup.compile_plan(features) if features else None
    manifest = Package(
        name=model.name, format=fitted["format"], task=model.task, model_file=fitted["model_file"], files=files,
        inputs=input_specs(rows), request=request_specs(rows, features), outputs=[FieldSpec(name="score", dtype="float64", nullable=False)],
        classes=fitted["classes"], threshold=fitted["threshold"], original_file=fitted["original_file"],
        feature_service=features.name if features else None, features=record.features, plan=plan,
        environment={"digest": fit_outcome["environment"], "python": fit_outcome["python"], "packages": fit_outcome["packages"]},
        equivalence=fitted["equivalence"], training_set=record.digest, run_id=fit_outcome["run_id"],
    )  # fmt: skip
    folder = packages.unpack(ws.objects, manifest, ws.path("jobs", cycle, "package"))
    predictor = formats.load(folder, manifest)
    train_X, _, train_times = rows.part("train")  # noqa: N806
    scores = np.asarray(predictor.scores(train_X), dtype=np.float64)
    golden = golden_rows(rows, predictor, features)
    table = pa.table({**{c: train_X[:, i] for i, c in enumerate(rows.columns)}, "score": scores})
    profile = drift.profile(table, train_times, columns=[*rows.columns, "score"])
    extra = {"golden.json": canonical(golden), "reference.bin": profile}
    for name, data in extra.items():
        files[name] = FileRef(sha256=ws.objects.put(data), size=len(data))
    manifest = msgspec.structs.replace(manifest, files=files, golden_file="golden.json", reference_file="reference.bin")
    content = packages.store(ws.objects, manifest)
    shutil.rmtree(folder, ignore_errors=True)

    def effect(ledger: Ledger) -> Json:
        version = versions.create(
            ledger,
            model.name,
            content=content,
            run_id=fit_outcome["run_id"],
            training_set=record.digest,
            source=source,
            at=at,
            actor=ws.actor,
        )
        return {"version": version.version}

    return {"content": content}, effect


def golden_rows(rows: Rows, predictor: Any, service: FeatureService | None) -> Json:
    """A few held-out rows with what the model must answer: a replica proves itself on ``inputs``, smoke on ``request``."""
    index = rows.split.test[:: max(len(rows.split.test) // GOLDEN_ROWS, 1)][:GOLDEN_ROWS]
    X = rows.X[index]  # noqa: N806
    scores = np.asarray(predictor.scores(X), dtype=np.float64).tolist()
    inputs = [{c: None if np.isnan(v) else v for c, v in zip(rows.columns, row, strict=True)} for row in X.tolist()]
    names = (
        [*service.join_keys, *(r for r in service.request if r not in service.join_keys)] if service else rows.columns
    )
    requests = rows.table.select(names).take(index.tolist()).to_pylist()
    return {
        "rows": [
            {"inputs": i, "request": r, "request_time": int(t), "score": s}
            for i, r, t, s in zip(inputs, requests, rows.times[index], scores, strict=True)
        ]
    }


def input_specs(rows: Rows) -> list[FieldSpec]:
    """The model's inputs with the range seen in training."""
    specs = []
    for i, name in enumerate(rows.columns):
        seen = rows.X[rows.split.train, i]
        seen = seen[~np.isnan(seen)]
        low, high = (float(seen.min()), float(seen.max())) if len(seen) else (None, None)
        specs.append(FieldSpec(name=name, dtype="float64", nullable=True, low=low, high=high))
    return specs


def request_specs(rows: Rows, service: FeatureService | None) -> list[FieldSpec]:
    """What a caller sends: entity keys (strings or integers as in the spine) and request values."""
    if service is None:
        return [
            FieldSpec(name=s.name, dtype=s.dtype, nullable=s.nullable, low=s.low, high=s.high)
            for s in input_specs(rows)
        ]
    import pyarrow as pa

    kinds = {k: rows.table.schema.field(k).type for k in service.join_keys}
    keys = [
        FieldSpec(name=k, dtype="int64" if pa.types.is_integer(t) else "string", nullable=True)
        for k, t in kinds.items()
    ]
    return keys + [
        FieldSpec(name=k, dtype=t, nullable=True) for k, t in service.request.items() if k not in service.join_keys
    ]


# --- the gate ---------------------------------------------------------------------------------------------------------


def measure(
    ws: Workspace, service: Service, *, name: str, version: int, record: TrainingSet, cycle: str, at: int
) -> tuple[Json, Effect | None]:
    """Measure every rule of the gate on the held-out rows and decide; the verdict is attached to the version."""
    from holdfast import formats
    from holdfast.lifecycle import ablation, decision, layers, release
    from holdfast.registry import package as packages
    from holdfast.registry import versions, waivers
    from holdfast.validation import evidence, gate

    model = service.model
    registered = versions.get(ws.ledger, name, version)
    manifest = packages.load(ws.objects, registered.content)
    folder = packages.unpack(ws.objects, manifest, ws.path("jobs", cycle, "gate"))
    rows = Rows(ws, model, record)
    X, y, times = rows.part("test")  # noqa: N806
    X_train, y_train, _ = rows.part("train")  # noqa: N806
    champion, champion_scores, champion_threshold = champion_on(ws, service, rows, X)
    vouched = _vouched(ws, manifest, folder)
    predictor = formats.load(folder, manifest, trusted=vouched)
    original = formats.load(folder, manifest, original=True, trusted=vouched) if manifest.original_file else None
    context = evidence.Context(
        predictor=predictor, package=manifest, X=X, y=y, groups=groups_of(rows, service.gate.rules), champion=champion,
        champion_scores=champion_scores, champion_threshold=champion_threshold, X_train=X_train, y_train=y_train, times=times,
        folder=folder, original=original, trusted=vouched,
        served=_served(ws, service.gate.rules, registered, manifest, rows),
        layers={
            **layers.of(ws, model, at=at),
            "ablation": lambda rule: ablation.measure(
                ws, model, rule, rows=rows, scores=context.scores, threshold=context.served_threshold
            ),
        },
    )  # fmt: skip
    measured = [*evidence.measure(context, service.gate.rules), *evidence.always(context, service.gate.rules)]
    verdict = gate.decide(
        measured, service.gate.rules, model=name, version=version, content=registered.content, at=at,
        waivers=waivers.active(ws.ledger, name, version, at=at),
    )  # fmt: skip
    ws.objects.put(canonical([msgspec.to_builtins(e) for e in measured]))
    why = decision.make(ws, model, registered, context, verdict, evidence=measured, at=at)
    why_digest = decision.put(ws, why)
    shutil.rmtree(folder, ignore_errors=True)

    def effect(ledger: Ledger) -> None:
        versions.attach_verdict(ledger, verdict, at=at, actor=ws.actor)
        decision.store(ledger, why, why_digest, registered, at=at, actor=ws.actor)

    failed = release.named(verdict)
    return {"outcome": verdict.outcome, "failed": failed, "verdict": msgspec.to_builtins(verdict)}, effect


def groups_of(rows: Rows, rules: Sequence[Rule]) -> dict[str, Any]:
    """The columns rules group the held-out rows by: the model's group, and any other column of the training set."""
    test = rows.split.test
    found = {rows.group_name: rows.groups[test]} if rows.group_name and rows.groups is not None else {}
    for rule in rules:
        name = rule.options.get("group")
        if name and name not in found and name in rows.table.column_names:
            found[name] = np.asarray(rows.table[name].to_pylist(), dtype=object)[test]
    return found


def _served(
    ws: Workspace, rules: Sequence[Rule], version: ModelVersion, manifest: Package, rows: Rows
) -> Served | None:  # fmt: skip
    """What a real server of the version answers, where a rule asks for it."""
    from holdfast.lifecycle import probe

    if not any(str(option).startswith("served") for rule in rules for option in rule.options):
        return None
    index = rows.split.test[
        np.linspace(0, len(rows.split.test) - 1, min(ASKED_ROWS, len(rows.split.test))).astype(np.int64)
    ]
    requests = rows.table.select([f.name for f in manifest.request]).take(index.tolist()).to_pylist()
    return probe.ask(ws, version, manifest, requests, [int(t) for t in rows.times[index]])


def check(ws: Workspace, service: Service, version: ModelVersion, *, at: int, progress: Progress = quiet) -> Verdict:
    """Measure a registered version by the gate of ``service`` and attach the verdict.

    Raises:
        BadInput: the version has no training set of this store to be measured on.
    """
    if version.training_set is None:
        raise BadInput(
            f"{version.name}@{version.version} has no training set here", hint="give rows: --data FILE --label COLUMN"
        )
    record = training_set(ws.ledger, version.training_set)
    progress(0, 1, f"measure {version.name}@{version.version}")
    job = f"check-{version.content[:16]}-{os.getpid()}"
    outcome, effect = measure(
        ws, service, name=version.name, version=version.version, record=record, cycle=job, at=at
    )  # fmt: skip
    shutil.rmtree(ws.path("jobs", job), ignore_errors=True)
    if effect is not None:
        effect(ws.ledger)
    progress(1, 1, str(outcome["outcome"]))
    return msgspec.convert(outcome["verdict"], Verdict)


def _vouched(ws: Workspace, manifest: Package, folder: Path) -> Callable[[str], bool]:
    """Whether bytes of the package may run code: this store signed them, or a person trusts them."""
    from holdfast.registry import package as packages
    from holdfast.registry import waivers

    return packages.vouched(
        manifest, folder, ws.secret("package"), also=lambda value: waivers.trusted(ws.ledger, value)
    )


def champion_on(ws: Workspace, service: Service, rows: Rows, X: Any) -> tuple[str, Any, float | None]:  # noqa: N803
    """The live champion (``name@version``, empty where there is none), its scores on the same rows, its threshold.

    Scores are None where the champion takes inputs these rows do not have: the comparison is then named and not made,
    which holds.
    """
    from holdfast import formats
    from holdfast.lifecycle import release
    from holdfast.registry import package as packages

    live = release.current(ws.ledger, service.name, "production")
    if live is None or live.champion is None:
        return "", None, None
    reference = f"{live.model}@{live.champion.version}"
    manifest = packages.load(ws.objects, live.champion.content)
    names = [spec.name for spec in manifest.inputs]
    if any(name not in rows.columns for name in names):
        return reference, None, None
    folder = packages.unpack(ws.objects, manifest, ws.path("packages", live.champion.content))
    predictor = formats.load(folder, manifest, trusted=_vouched(ws, manifest, folder))
    index = [rows.columns.index(name) for name in names]
    return reference, np.asarray(predictor.scores(X[:, index]), dtype=np.float64), manifest.threshold
