"""What stages hand each other: frozen records, each carrying the identity of the one before.

DatasetVersion → TrainingSet → RunRecord → ModelVersion → Evidence → Verdict → Release → Prediction → Report →
RetrainOrder → back. They are msgspec structs: ``msgspec.to_builtins`` writes them, ``msgspec.convert`` reads them, new
fields get defaults so that old records still decode. All instants are int64 microseconds UTC.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Outcome = Literal["pass", "fail", "not enough evidence"]
Json = dict[str, Any]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records."""


# --- data -------------------------------------------------------------------------------------------------------------


class DatasetVersion(Record, frozen=True, kw_only=True):
    """Tracked bytes. ``md5`` is DVC's name for them (``….dir`` for a folder), ``sha256`` ours; both from one pass."""

    name: str
    path: str
    md5: str
    sha256: str
    size: int
    files: int = 1
    rows: int | None = None
    schema: str | None = None
    at: int = 0


class Finding(Record, frozen=True, kw_only=True):
    """One thing a data check saw. ``blocking`` findings keep the data out."""

    check: str
    column: str | None
    message: str
    count: int
    blocking: bool
    examples: list[Json] = []


# --- training ---------------------------------------------------------------------------------------------------------


class TrainingSet(Record, frozen=True, kw_only=True):
    """Spine + features as known at each row's time + label. ``digest`` names everything it came from."""

    digest: str
    service: str
    features: dict[str, str]
    datasets: dict[str, str]
    rows: int
    labelled: int
    start: int
    end: int
    columns: list[str]
    label: str | None
    content: str


class RunRecord(Record, frozen=True, kw_only=True):
    """What one training run was: enough to do it again."""

    run_id: str
    experiment: str
    model: str
    status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
    training_set: str | None
    params: dict[str, Any]
    metrics: dict[str, float]
    code: Json = {}
    environment: str | None = None
    seed: int | None = None
    command: list[str] = []
    started: int = 0
    ended: int | None = None


# --- model ------------------------------------------------------------------------------------------------------------

DType = Literal["int64", "float64", "string", "bool", "timestamp"]


class FieldSpec(Record, frozen=True, kw_only=True):
    """One named input or output. ``low``/``high`` are the range seen in training; beyond it is a notice, not an error,
    unless ``strict``."""

    name: str
    dtype: DType
    nullable: bool = True
    low: float | None = None
    high: float | None = None
    strict: bool = False


class FileRef(Record, frozen=True, kw_only=True):
    sha256: str
    size: int


SIGNATURES = "signatures.json"
"""The file of a package that names, with its store's HMAC, those of its files that run code when they are loaded."""


class Package(Record, frozen=True, kw_only=True):
    """A model as it is shipped: the manifest. Its digest is the model's content identity.

    ``request`` is what a caller sends (entity keys, request values, or the inputs themselves where no feature service is
    declared); ``inputs`` is what the model is given, bound by name. ``plan`` is the compiled read plan of the feature
    service (``features.lookup``), with the source of its on-demand functions. ``files`` maps names inside the
    package to objects in the store.
    """

    name: str
    format: str
    task: Literal["binary", "multiclass", "regression"]
    model_file: str
    files: dict[str, FileRef]
    inputs: list[FieldSpec]
    request: list[FieldSpec]
    outputs: list[FieldSpec]
    classes: list[Any] = []
    threshold: float | None = None
    original_file: str | None = None
    feature_service: str | None = None
    features: dict[str, str] = {}
    plan: Json | None = None
    golden_file: str | None = None
    reference_file: str | None = None
    environment: Json = {}
    equivalence: Json | None = None
    training_set: str | None = None
    run_id: str | None = None


class ModelVersion(Record, frozen=True, kw_only=True):
    """``name@version``: a package under a number, and the run it came from."""

    name: str
    version: int
    content: str
    run_id: str | None
    training_set: str | None = None
    source: str = ""
    description: str = ""
    stage: str = "None"
    aliases: list[str] = []
    tags: dict[str, str] = {}
    at: int = 0
    updated: int = 0
    actor: str = ""
    model_id: str | None = None
    run_link: str = ""
    signature: str = ""


# --- validation -------------------------------------------------------------------------------------------------------


class Evidence(Record, frozen=True, kw_only=True):
    """What one check measured. ``low``/``high`` bound ``figure`` at ``confidence``; ``n`` is the sample it rests on;
    ``compared`` and ``how`` say against what and by which method. No verdict is in here."""

    check: str
    figure: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    confidence: float = 0.95
    unit: str = ""
    group: str | None = None
    compared: str = ""
    how: str = ""
    layer: Literal["unit", "integration", "validation", "live"] = "validation"
    details: Json = {}


class RuleOutcome(Record, frozen=True, kw_only=True):
    """How one rule came out over its evidence. ``counts`` is false where the outcome is shown but does not hold the
    verdict (a note, a few rows of a tiny group)."""

    check: str
    outcome: Outcome
    message: str
    figure: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    threshold: float | None = None
    group: str | None = None
    waived_by: str | None = None
    counts: bool = True


class Waiver(Record, frozen=True, kw_only=True):
    """Somebody takes responsibility for one check until an instant. ``check`` is the rule's key as the verdict shows it
    (or its bare name, for all rules of that check); ``group`` narrows it."""

    check: str
    by: str
    reason: str
    until: int
    at: int = 0
    group: str | None = None
    model: str | None = None
    version: int | None = None


class Verdict(Record, frozen=True, kw_only=True):
    """The gate's decision over all evidence for one exact content; the only key to Production."""

    model: str
    version: int
    content: str
    outcome: Outcome
    results: list[RuleOutcome]
    rules: str
    evidence: str
    at: int = 0


# --- serving ----------------------------------------------------------------------------------------------------------


class Arm(Record, frozen=True, kw_only=True):
    """One version answering in a release. ``weight`` is in percent, of the challenger's share of traffic."""

    version: int
    content: str
    weight: float = 0.0


class Release(Record, frozen=True, kw_only=True):
    """What answers traffic for one service in one environment. A higher ``sequence`` supersedes a lower one.
    ``signature`` is an HMAC-SHA256 over the canonical form without it, with the workspace's key. ``log`` says what the
    prediction log keeps (sample, redact, key); empty = everything."""

    service: str
    model: str
    environment: Literal["staging", "production"]
    sequence: int
    champion: Arm | None
    challenger: Arm | None = None
    shadow: Arm | None = None
    salt: str = ""
    reason: str = ""
    at: int = 0
    signature: str = ""
    log: Json = {}


RolloutStatus = Literal["running", "holding", "promoted", "rolled back", "aborted"]


class Rollout(Record, frozen=True, kw_only=True):
    """From challenger to champion. ``step`` counts into ``plan``: smoke, shadow, canary weights, champion."""

    id: str
    service: str
    model: str
    version: int
    content: str
    plan: list[Json]
    step: int
    entered: int
    started: int
    status: RolloutStatus = "running"
    reason: str = ""
    cycle: str | None = None
    history: list[Json] = []


ABTestStatus = Literal[
    "running", "better", "worse", "no relevant difference", "undecided", "guardrail", "invalid", "stopped"
]


class ABTest(Record, frozen=True, kw_only=True):
    """A challenger compared with the champion under a fixed assignment. ``plan`` is what was declared, with the sample
    planned before (``planned``: control, treatment, in keys); ``result`` the last look. Its id is the release's salt."""

    id: str
    service: str
    model: str
    version: int
    content: str
    control: int
    weight: float
    plan: Json
    started: int
    status: ABTestStatus = "running"
    reason: str = ""
    ended: int | None = None
    result: Json = {}


class Prediction(Record, frozen=True, kw_only=True):
    """One answered request as the prediction log keeps it. ``features`` are the model's inputs as served."""

    id: str
    service: str
    environment: str
    version: int
    arm: Literal["champion", "challenger", "shadow"]
    key: str
    request_time: int
    received: int
    inputs: Json
    features: Json
    score: float | list[float] | None
    output: Any
    latency_us: int
    replica: str = ""


class LabelRecord(Record, frozen=True, kw_only=True):
    """The truth for one prediction. Later ``at``, then later ``sequence``, wins: labels may come late, repeated,
    corrected."""

    prediction_id: str
    value: float | int | str | bool
    at: int
    sequence: int = 0
    source: str = ""


# --- monitoring and retraining ----------------------------------------------------------------------------------------


class Signal(Record, frozen=True, kw_only=True):
    """One statistic of a report: what moved, by how much, against which floor, and whether it counts."""

    name: str
    family: str
    statistic: str
    value: float | None
    floor: float | None = None
    p: float | None = None
    low: float | None = None
    high: float | None = None
    reference: float | None = None
    n: int = 0
    alarm: bool = False
    direction: str = ""
    message: str = ""


class Report(Record, frozen=True, kw_only=True):
    """A monitor's result over one window. ``no data`` is an outcome of its own, never ``ok``."""

    id: str
    service: str
    kind: str
    version: int | None
    start: int
    end: int
    outcome: Literal["ok", "alarm", "no data", "not enough evidence"]
    signals: list[Signal]
    rows: int = 0
    labelled: int = 0
    details: Json = {}
    at: int = 0


class RetrainOrder(Record, frozen=True, kw_only=True):
    """One request to retrain, with its reason and the reports it rests on; ``tick`` is the scheduled tick it answers."""

    id: str
    service: str
    trigger: Literal["first", "schedule", "drift", "degradation", "data", "manual"]
    reason: str
    reports: list[str] = []
    at: int = 0
    tick: int | None = None


CycleStatus = Literal["running", "promoted", "rejected", "rolled back", "failed", "blocked"]


class Cycle(Record, frozen=True, kw_only=True):
    """One turn of the loop: trigger → train → gate → rollout → how it ended, and why."""

    id: str
    service: str
    order: RetrainOrder
    status: CycleStatus = "running"
    step: str = ""
    version: int | None = None
    reason: str = ""
    started: int = 0
    ended: int | None = None
    training_seconds: float = 0.0


# --- ledger -----------------------------------------------------------------------------------------------------------


class Entry(Record, frozen=True, kw_only=True):
    """One link of the chain. ``hash`` = SHA-256 over the canonical form of all other fields; ``previous`` is the hash of
    the entry before. ``body`` holds ids and digests; text that people may delete lives beside the chain."""

    sequence: int
    kind: str
    subject: str
    at: int
    actor: str
    body: Json
    previous: str
    hash: str
