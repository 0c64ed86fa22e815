"""Evidence → verdict → staging → canary → production, or back. The only place where traffic moves.

The ledger holds the current release of each (service, environment); the signed release file that replicas poll is a
projection of it, written after the commit and repaired by ``reconcile``. Every door (CLI, loop, REST) arrives here.
A production release needs a version whose verdict passed for exactly its content (policy enforce) and whose staging
release passed smoke; approvals (stage, alias) are moved by ``registry.pointers`` when a rollout ends as champion.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from holdfast.core.definitions import Service
from holdfast.core.errors import Conflict, NotApproved, NotFound, Unavailable
from holdfast.core.identity import duration_text, iso, new_id
from holdfast.core.ports import Ledger, LedgerTransaction
from holdfast.core.records import ABTest, Arm, Evidence, Json, ModelVersion, Release, Rollout, Verdict
from holdfast.lifecycle import approval
from holdfast.lifecycle.approval import SMOKES
from holdfast.lifecycle.durable import Joined
from holdfast.registry.approval import Terms

if TYPE_CHECKING:
    from holdfast.workspace import Workspace

RELEASES = "releases"
ROLLOUTS = "rollouts"
LIVE_FEATURES = "live_features"
ABTESTS = "abtests"
START_SECONDS, PROBLEM_SECONDS = 60.0, 5.0
# Where the server first makes the environment its model was made in.
MAKING_SECONDS = 1800.0


# --- what is live -----------------------------------------------------------------------------------------------------


def current(ledger: Ledger, service: str, environment: str) -> Release | None:
    """The release that answers now, as the ledger has it."""
    row = ledger.get(RELEASES, f"{service}/{environment}")
    return msgspec.convert(row, Release) if row else None


def rollout_of(ledger: Ledger, service: str) -> Rollout | None:
    """The newest rollout of a service, running or ended."""
    row = ledger.get(ROLLOUTS, service)
    return msgspec.convert(row, Rollout) if row else None


def history(ledger: Ledger, service: str, environment: str = "production") -> list[Release]:
    """All releases of a service and environment, oldest first."""
    entries = ledger.query(kind="release", subject=service, limit=100_000)
    releases = [msgspec.convert(e.body["release"], Release) for e in entries]
    return [r for r in releases if r.environment == environment]


def _publish(
    tx: LedgerTransaction, change: Release, *, under: Terms, models: Iterable[str], at: int, actor: str
) -> Release:
    """Record a release under the next sequence, in the caller's transaction: the one function traffic is moved by.

    Raises:
        NotApproved: an arm enters production, or grows there, without what ``under`` asks for at this moment.
    """
    key = f"{change.service}/{change.environment}"
    known = tx.get(RELEASES, key)
    entering = approval.entering(msgspec.convert(known, Release) if known else None, change)
    approved = approval.require(tx, entering, under, service=change.service, models=models, at=at)
    release = msgspec.structs.replace(change, sequence=(known["sequence"] + 1 if known else 1), at=at, signature="")
    tx.put(RELEASES, key, msgspec.to_builtins(release))
    body = {"release": msgspec.to_builtins(release), "policy": under.policy, "approved": approved}
    tx.append("release", subject=release.service, at=at, actor=actor, body=body)
    return release


def publish(tx: LedgerTransaction, change: Release, *, service: Service, under: Terms, at: int, actor: str) -> Release:
    """``_publish`` with what the service's prediction log is declared to keep. ``under`` are the service's terms
    (``approval.terms_of``), read before the transaction begins: they come from the project, not from the ledger."""
    change = msgspec.structs.replace(change, log=service.prediction_log.policy)
    return _publish(
        tx, change, under=under, models=dict.fromkeys([service.model.name, change.model]), at=at, actor=actor
    )


def follow_log(ws: Workspace, service: Service, *, at: int) -> bool:
    """Tell the replicas when the declared prediction log differs from the one in force; True when it did."""
    moved = False
    for environment in ("production", "staging"):
        live = current(ws.ledger, service.name, environment)
        if live is None or live.champion is None or live.log == service.prediction_log.policy:
            continue
        with ws.ledger.transaction() as tx:
            row = tx.get(RELEASES, f"{service.name}/{environment}")
            now = msgspec.convert(row, Release)
            publish(
                tx,
                msgspec.structs.replace(now, reason="what the prediction log keeps was declared anew"),
                service=service,
                under=approval.terms_of(ws, service),
                at=at,
                actor=ws.actor,
            )
        moved = True
    if moved:
        project_files(ws, service.name)
    return moved


def key_is_hidden(ws: Workspace, release: Release) -> bool:
    """Whether the log of this release has hashed routing keys."""
    if not release.log or release.champion is None:
        return False
    from holdfast.registry import package as packages
    from holdfast.serving import model

    if release.log.get("key") == "hash":
        return True
    keys = model.entity_keys(packages.load(ws.objects, release.champion.content))
    return any(k in release.log.get("redact", {}) for k in keys)


def require_no_other(tx: LedgerTransaction, service: str) -> None:
    """Raises:
    Conflict: a rollout or an A/B test of the service is under way."""
    known = tx.get(ROLLOUTS, service)
    if known is not None and known.get("status", "running") in ("running", "holding"):
        raise Conflict(
            f"{known['model']}@{known['version']} is being rolled out on {service!r}",
            hint=f"wait for it, or `holdfast release abort {service}`",
        )
    test = tx.get(ABTESTS, service)
    if test is not None and test.get("status", "running") == "running":
        raise Conflict(
            f"{test['model']}@{test['version']} is in an A/B test on {service!r}",
            hint=f"wait for it, or `holdfast release abtest stop {service}`",
        )


def note_live_features(
    ws: Workspace, tx: LedgerTransaction, service: str, model: str, version: int, content: str
) -> None:
    """Keep which features the new champion of a service uses."""
    from holdfast.registry import package as packages

    manifest = packages.load(ws.objects, content)
    tx.put(LIVE_FEATURES, service, {"model": f"{model}@{version}", "features": manifest.features})


def project_files(ws: Workspace, service: str) -> None:
    """Write the release files replicas poll from what the ledger says; nothing where they already agree."""
    from holdfast.serving import release_file

    key = ws.secret("release")
    for environment in ("production", "staging"):
        release = current(ws.ledger, service, environment)
        if release is None:
            continue
        known = release_file.read(ws.home / "releases", service, environment, key)
        if known is None or known.sequence < release.sequence:
            with suppress(Conflict):  # another process projected a newer one meanwhile
                release_file.write(ws.home / "releases", release, key)


# --- may it? ----------------------------------------------------------------------------------------------------------


def policy_of(ws: Workspace, service: Service) -> str:
    """off | warn | enforce for this service's traffic."""
    return approval.terms_of(ws, service).policy


def missing_for_production(ws: Workspace, service: Service, version: ModelVersion, *, at: int) -> list[str]:
    """What a version still lacks at ``at`` before it may answer production traffic; empty when nothing."""
    if version.name != service.model.name:
        return [f"to be a version of {service.model.name!r}, which {service.name!r} serves"]
    return approval.missing(ws.ledger, version, approval.terms_of(ws, service), service=service.name, at=at)


def require_production(ws: Workspace, service: Service, version: ModelVersion, *, at: int) -> None:
    """Refuse early, before anything is built on a version that could not go live; ``publish`` asks again when it does.

    Raises:
        NotApproved: policy is enforce and something is missing; the message names all of it.
    """
    missing = missing_for_production(ws, service, version, at=at)
    if missing and policy_of(ws, service) == "enforce":
        raise approval.refusal(version, missing)


# --- staging and smoke ------------------------------------------------------------------------------------------------


def stage(ws: Workspace, service: Service, version: ModelVersion, *, at: int, reason: str = "") -> Release:
    """Make ``version`` the staging release of a service."""
    under = approval.terms_of(ws, service)
    with ws.ledger.transaction() as tx:
        release = publish(
            tx, Release(service=service.name, model=version.name, environment="staging", sequence=0,
                        champion=Arm(version=version.version, content=version.content, weight=100.0), salt=service.name, reason=reason),
            service=service, under=under, at=at, actor=ws.actor,
        )  # fmt: skip
    project_files(ws, service.name)
    return release


@contextmanager
def fleet(
    ws: Workspace, service: str, environment: str, *, replicas: int = 1, port: int = 0, arguments: tuple[str, ...] = ()
) -> Iterator[Json]:
    """A serving fleet as a child process while the block runs; yields what it wrote about itself once ready."""
    about = ws.path("run", f"{service}-{environment}.json")
    about.unlink(missing_ok=True)
    log = ws.path("logs", f"{service}-{environment}.log")
    command = [
        sys.executable, "-m", "holdfast.cli.main", "serve", service, "--environment", environment,
        "--replicas", str(replicas), "--port", str(port), *arguments,
    ]  # fmt: skip
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=ws.root, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        making = ws.settings.serve.environment == "auto"
        yield _wait_ready(about, process, log, seconds=MAKING_SECONDS if making else START_SECONDS)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(about: Path, process: subprocess.Popen[bytes], log: Path, *, seconds: float) -> Json:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise Unavailable(
                f"the server ended at its start: {lines[-1] if lines else process.returncode}", hint=f"its log is {log}"
            )
        if about.exists():
            info: Json = json.loads(about.read_text(encoding="utf-8"))
            if info.get("pid") == process.pid or _alive(info.get("pid")):
                return info
        time.sleep(0.02)
    raise Unavailable(f"the server was not ready in {seconds:.0f} s", hint=f"its log is {log}")


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (OSError, TypeError, ValueError):
        return False
    return True


def smoke(ws: Workspace, service: Service, version: ModelVersion, *, at: int) -> Evidence:
    """Send the package's golden rows through a real staging server; every one must be answered by this version with a
    finite score. Recorded under the exact content."""
    from holdfast.registry import package as packages

    manifest = packages.load(ws.objects, version.content)
    problems: list[str] = []
    answered = 0
    if manifest.golden_file is None:
        problems.append("the package has no golden rows")
    else:
        golden = json.loads(ws.objects.get(manifest.files[manifest.golden_file].sha256))["rows"]
        with fleet(ws, service.name, "staging", arguments=("--replay",)) as about:
            lacking = wait_loaded(about["address"])
            if lacking:
                problems.append(lacking)
            for row in golden if not lacking else []:
                status, answer = _post(
                    about["address"] + "/predict", {"rows": [row["request"]], "request_time": row["request_time"]}
                )
                predictions = answer.get("predictions") or [{}]
                if status != 200:
                    problems.append(f"HTTP {status}: {str(answer)[:200]}")
                elif predictions[0].get("version") != version.version:
                    problems.append(f"answered by version {predictions[0].get('version')}")
                elif not _scored(predictions[0].get("score")):
                    problems.append(f"score is {predictions[0].get('score')!r}")
                else:
                    answered += 1
    evidence = Evidence(
        check="smoke", figure=float(answered), n=answered + len(problems), layer="live", how="golden rows through a staging server",
        details={"problems": problems[:5]},
    )  # fmt: skip
    outcome = "fail" if problems or not answered else "pass"
    with ws.ledger.transaction() as tx:
        body = {
            "version": version.version,
            "content": version.content,
            "outcome": outcome,
            "answered": answered,
            "problem": problems[0] if problems else "",
        }
        tx.put(SMOKES, f"{service.name}/{version.content}", {**body, "at": at})
        tx.append("smoke", subject=service.name, body=body, at=at, actor=ws.actor)
    return evidence


def _scored(score: Any) -> bool:
    """Whether an answer's score is a number, or a number for each class."""
    return isinstance(score, int | float) or (
        isinstance(score, list) and bool(score) and all(isinstance(s, int | float) for s in score)
    )


def wait_loaded(address: str) -> str:
    """Wait until the server says it is ready, for START_SECONDS, or PROBLEM_SECONDS once it says what it lacks; empty when
    it is ready, else that."""
    deadline, problem = time.monotonic() + START_SECONDS, ""
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address + "/health/ready", timeout=5):  # noqa: S310  (our own loopback address)
                return ""
        except urllib.error.HTTPError as error:
            with suppress(ValueError):
                told = json.loads(error.read()).get("problem") or ""
                if told and not problem:
                    deadline = min(deadline, time.monotonic() + PROBLEM_SECONDS)
                problem = told
        except OSError:
            pass
        time.sleep(0.05)
    return problem or f"the server was not ready in {START_SECONDS:.0f} s"


def _post(url: str, body: Json) -> tuple[int, Json]:
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})  # noqa: S310  (our own loopback address)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with suppress(ValueError):
            return error.code, json.loads(error.read())
        return error.code, {}
    except (OSError, ValueError) as error:
        return 0, {"error": str(error)}


# --- rollout ----------------------------------------------------------------------------------------------------------


def begin(ws: Workspace, service: Service, version: ModelVersion, *, at: int, cycle: str | None = None) -> Rollout:
    """Start a rollout of ``version``: the first release of a service goes live after smoke, later ones through the plan.

    Raises:
        NotApproved: the gate or smoke is missing under enforce.
        Conflict: another rollout of this service is under way.
    """
    from holdfast.serving import steps

    require_production(ws, service, version, at=at)
    plan = steps.plan(service.rollout)
    live = current(ws.ledger, service.name, "production")
    if live is None or live.champion is None:
        plan = [plan[0], plan[-1]]
    rollout = Rollout(
        id=cycle or new_id(at), service=service.name, model=version.name, version=version.version, content=version.content,
        plan=plan, step=0, entered=at, started=at, cycle=cycle,
    )  # fmt: skip
    with ws.ledger.transaction() as tx:
        known = tx.get(ROLLOUTS, service.name)
        if known is not None:
            before = msgspec.convert(known, Rollout)
            if before.id == rollout.id:
                return before
        require_no_other(tx, service.name)
        tx.put(ROLLOUTS, service.name, msgspec.to_builtins(rollout))
        tx.append(
            "rollout.begun",
            subject=service.name,
            body={"id": rollout.id, "version": version.version, "content": version.content, "plan": plan},
            at=at,
            actor=ws.actor,
        )
    return rollout


def advance(ws: Workspace, service: Service, *, now: int) -> Rollout | None:
    """Judge the present step of the running rollout and make the move it calls for. None where nothing is under way."""
    from holdfast.serving import steps

    rollout = rollout_of(ws.ledger, service.name)
    if rollout is None or rollout.status not in ("running", "holding"):
        return rollout
    while True:
        before = rollout
        # What it began with may have been taken back since: a verdict, a waiver's time, the version itself.
        lacking = _lacking(ws, service, rollout, now=now)
        if lacking:
            return _apply(ws, service, rollout, steps.Move("abort", 0.0, rollout.step, lacking), [], now=now)
        outcome, why = judge(ws, service, rollout, now=now)
        move = steps.next(rollout, outcome, now)  # type: ignore[arg-type]
        try:
            rollout = _apply(ws, service, rollout, move, why, now=now)
        except NotApproved as error:  # taken back between the question above and the move
            return _apply(ws, service, before, steps.Move("abort", 0.0, before.step, error.message), [], now=now)
        if move.action != "advance" or rollout.step == before.step:
            return rollout
        if rollout.plan[rollout.step]["step"] in ("canary", "shadow"):
            return rollout


def _lacking(ws: Workspace, service: Service, rollout: Rollout, *, now: int) -> str:
    """What keeps a running rollout's version from production traffic under enforce, in words; empty when nothing. Smoke
    is a step of the rollout itself and judged there."""
    under = approval.terms_of(ws, service)
    version = ModelVersion(name=rollout.model, version=rollout.version, content=rollout.content, run_id=None)
    lacking = approval.missing(ws.ledger, version, under, service=service.name, at=now) if under.enforced else []
    if not lacking or rollout.plan[rollout.step]["step"] == "smoke":
        return ""
    return f"{version.name}@{version.version} lost its approval: {lacking[0]}"


def judge(ws: Workspace, service: Service, rollout: Rollout, *, now: int) -> tuple[str | None, list[str]]:
    """The verdict over the present step: smoke from its record, the others from live evidence by the gate's ``decide``."""
    step = rollout.plan[rollout.step]["step"]
    if step == "smoke":
        record = ws.ledger.get(SMOKES, f"{service.name}/{rollout.content}")
        return (record["outcome"], []) if record else (None, [])
    if step == "champion":
        return "pass", []
    import pyarrow.compute as pc

    from holdfast.monitoring import labels
    from holdfast.registry import package as packages
    from holdfast.serving import journal
    from holdfast.validation import gate, live

    predictions = journal.read(ws.home / "predictions" / service.name, since=rollout.entered, until=now)
    if predictions.num_rows == 0:
        return None, ["no predictions since the step began"]
    challenger = _side(predictions, "shadow" if step == "shadow" else "challenger", rollout.version)
    champion = _side(predictions, "champion", None)
    truth = labels.LabelStore(ws.home / "labels" / service.name).read()
    package = packages.load(ws.objects, rollout.content)
    before = current(ws.ledger, service.name, "production")
    theirs = (
        package if before is None or before.champion is None else packages.load(ws.objects, before.champion.content)
    )
    metric = live.METRICS[package.task]
    evidence = live.evidence(
        champion, challenger, truth, rollout=service.rollout, metric=metric, classes=package.classes, champion_classes=theirs.classes
    )  # fmt: skip
    # Truth is asked for where it flows: labels that never come would hold a good canary for ever.
    flowing = truth.num_rows and pc.sum(pc.is_in(champion["id"], value_set=truth["prediction_id"])).as_py()
    verdict = gate.decide(
        evidence,
        live.rules(service.rollout, metric=metric, labels=(flowing or 0) >= service.rollout.minimum),
        model=rollout.model,
        version=rollout.version,
        content=rollout.content,
        at=now,
    )
    return verdict.outcome, named(verdict)


def named(verdict: Verdict) -> list[str]:
    """What kept a verdict from passing, each with its check's name; the failures first."""
    held = sorted((r for r in verdict.results if r.outcome != "pass" and r.counts), key=lambda r: r.outcome != "fail")
    return [f"{r.check}: {r.message}" for r in held]


def _side(predictions: Any, arm: str, version: int | None) -> Any:
    import pyarrow.compute as pc

    keep = pc.equal(predictions["arm"], arm)
    if version is not None:
        keep = pc.and_(keep, pc.equal(predictions["version"], version))
    return predictions.filter(keep)


def _apply(ws: Workspace, service: Service, rollout: Rollout, move: Any, why: list[str], *, now: int) -> Rollout:
    """Carry a move out: the rollout's state and the release change in one transaction, then the files follow."""
    status = {
        "promote": "promoted",
        "rollback": "rolled back",
        "abort": "aborted",
        "hold": rollout.status,
        "advance": "running",
    }[move.action]
    reason = move.reason + (f": {'; '.join(why)}" if why and move.action != "advance" else "")
    if move.action == "hold" and reason == rollout.reason:
        return rollout
    event = {"at": now, "action": move.action, "step": move.step, "weight": move.weight, "reason": reason}
    after = msgspec.structs.replace(
        rollout, status=status, reason=reason, step=move.step, entered=now if move.action == "advance" else rollout.entered,
        history=[*rollout.history, event],
    )  # fmt: skip
    arm = Arm(version=rollout.version, content=rollout.content, weight=move.weight)
    under, of_model = approval.terms_of(ws, service), approval.terms_of_model(ws, rollout.model, service)
    with ws.ledger.transaction() as tx:
        row = tx.get(RELEASES, f"{service.name}/production")
        live = msgspec.convert(row, Release) if row else None
        base = live or Release(
            service=service.name,
            model=rollout.model,
            environment="production",
            sequence=0,
            champion=None,
            salt=service.name,
        )
        base = msgspec.structs.replace(base, reason=reason, salt=rollout.id, shadow=None)
        if move.action == "promote":
            publish(
                tx,
                msgspec.structs.replace(
                    base, model=rollout.model, champion=msgspec.structs.replace(arm, weight=100.0), challenger=None
                ),
                service=service,
                under=under,
                at=now,
                actor=ws.actor,
            )
            note_live_features(ws, tx, service.name, rollout.model, rollout.version, rollout.content)
            approve_champion(ws, tx, rollout, under=of_model, at=now)
        elif move.action in ("rollback", "abort"):
            if live is not None:
                publish(
                    tx,
                    msgspec.structs.replace(base, challenger=None),
                    service=service,
                    under=under,
                    at=now,
                    actor=ws.actor,
                )
        elif move.action == "advance":
            kind = rollout.plan[move.step]["step"]
            if kind == "shadow":
                publish(
                    tx,
                    msgspec.structs.replace(base, shadow=arm, challenger=None),
                    service=service,
                    under=under,
                    at=now,
                    actor=ws.actor,
                )
            elif kind == "canary":
                publish(
                    tx,
                    msgspec.structs.replace(base, challenger=arm),
                    service=service,
                    under=under,
                    at=now,
                    actor=ws.actor,
                )
        tx.put(ROLLOUTS, service.name, msgspec.to_builtins(after))
        tx.append(
            "rollout.moved",
            subject=service.name,
            body={"id": rollout.id, **event, "status": status},
            at=now,
            actor=ws.actor,
        )
    project_files(ws, service.name)
    return after


def approve_champion(ws: Workspace, tx: LedgerTransaction, rollout: Rollout | ABTest, *, under: Terms, at: int) -> None:
    """Move stage Production and alias champion to the version that now answers, in the transaction that lets it answer;
    archive the one before. ``under`` are the model's terms (``approval.terms_of_model``).

    Raises:
        NotApproved: another service of this model asks for more than this one.
    """
    from holdfast.registry import pointers

    ledger = cast(Ledger, Joined(tx))
    pointers.move_stage(
        ledger,
        rollout.model,
        rollout.version,
        "Production",
        policy=under,
        at=at,
        actor=ws.actor,
        reason=f"{'rollout' if isinstance(rollout, Rollout) else 'A/B test'} {rollout.id}",
    )
    pointers.move_alias(
        ledger,
        rollout.model,
        "champion",
        rollout.version,
        policy=under,
        at=at,
        actor=ws.actor,
        reason=f"{'rollout' if isinstance(rollout, Rollout) else 'A/B test'} {rollout.id}",
    )


def end(ws: Workspace, service: Service, action: str, *, at: int, reason: str) -> Rollout:
    """End the running rollout by hand: ``promote`` (still needs approval) or ``abort``.

    Raises:
        NotFound: no rollout is under way. NotApproved: promote without what the gate asks for.
    """
    from holdfast.registry import versions
    from holdfast.serving.steps import Move

    rollout = rollout_of(ws.ledger, service.name)
    if rollout is None or rollout.status not in ("running", "holding"):
        raise NotFound(f"no rollout of {service.name!r} is under way", hint="`holdfast deploy NAME@VERSION` starts one")
    if action == "promote":
        require_production(ws, service, versions.get(ws.ledger, rollout.model, rollout.version), at=at)
        return _apply(ws, service, rollout, Move("promote", 100.0, len(rollout.plan) - 1, reason), [], now=at)
    return _apply(ws, service, rollout, Move("abort", 0.0, rollout.step, reason), [], now=at)


# --- by hand ----------------------------------------------------------------------------------------------------------


def rollback(ws: Workspace, service: str, *, at: int, reason: str) -> Release:
    """Give traffic back at once: end a running rollout, else return to the newest champion before that is still approved.
    Its verdict may be by the rules of its own time: a way back must not wait for a gate that was changed since.

    Raises:
        NotFound: nothing is live, or there is nothing to go back to.
        NotApproved: no champion before has what the gate asks for, and the policy is enforce.
    """
    live = current(ws.ledger, service, "production")
    under = approval.terms_of_service(ws, service, live.model if live else "")
    with ws.ledger.transaction() as tx:
        row = tx.get(RELEASES, f"{service}/production")
        live = msgspec.convert(row, Release) if row else None
        if live is None or live.champion is None:
            raise NotFound(f"service {service!r} has no production release", hint="deploy a version first")
        known = tx.get(ROLLOUTS, service)
        rollout = msgspec.convert(known, Rollout) if known else None
        way_back = under
        if live.challenger is not None or live.shadow is not None:
            target = msgspec.structs.replace(live, challenger=None, shadow=None, reason=reason)
        else:
            earlier, way_back = _champion_before(ws, tx, live, under, at=at)
            target = msgspec.structs.replace(
                live, model=earlier.model, champion=earlier.champion, challenger=None, shadow=None, reason=reason
            )
        release = _publish(tx, target, under=way_back, models=[target.model], at=at, actor=ws.actor)
        if rollout is not None and rollout.status in ("running", "holding"):
            ended = msgspec.structs.replace(
                rollout,
                status="rolled back",
                reason=reason,
                history=[
                    *rollout.history,
                    {"at": at, "action": "rollback", "step": rollout.step, "weight": 0.0, "reason": reason},
                ],
            )
            tx.put(ROLLOUTS, service, msgspec.to_builtins(ended))
        test = tx.get(ABTESTS, service)
        if test is not None and test["status"] == "running":
            stopped = {**test, "status": "stopped", "reason": f"rollback: {reason}", "ended": at}
            tx.put(ABTESTS, service, stopped)
            tx.append("abtest.ended", subject=service, body=stopped, at=at, actor=ws.actor)
        tx.append(
            "rollback",
            subject=service,
            body={"to": release.champion.version if release.champion else None, "reason": reason},
            at=at,
            actor=ws.actor,
        )
    project_files(ws, service)
    return release


def _champion_before(
    ws: Workspace, tx: LedgerTransaction, live: Release, under: Terms, *, at: int
) -> tuple[Release, Terms]:
    """The newest release with another champion that may answer again, and the terms it does so under."""
    refused: list[NotApproved] = []
    champion = live.champion.content if live.champion else ""
    for entry in ws.ledger.query(kind="release", subject=live.service, limit=100_000, newest_first=True):
        earlier = msgspec.convert(entry.body["release"], Release)
        arm = earlier.champion
        if earlier.environment != "production" or arm is None or arm.content == champion:
            continue
        then = replace(under, rules=None, decision_record=False) if entry.body.get("approved") else under
        try:
            approval.require(tx, [("champion", arm)], then, service=live.service, models=[earlier.model], at=at)
        except NotApproved as error:
            refused.append(error)
            continue
        return earlier, then
    if refused:
        raise refused[0]
    raise NotFound(
        f"service {live.service!r} has had no other champion than {live.model}@{live.champion.version if live.champion else ''}",
        hint="deploy another version",
    )


def set_weight(ws: Workspace, service: Service, weight: float, *, at: int, reason: str) -> Release:
    """Move the running challenger to another weight (percent).

    Raises:
        NotFound: there is no challenger. NotApproved: it may not answer production traffic.
    """
    live = current(ws.ledger, service.name, "production")
    if live is None or live.challenger is None:
        raise NotFound(f"service {service.name!r} has no challenger", hint="deploy a version first")
    under = approval.terms_of(ws, service)
    with ws.ledger.transaction() as tx:
        row = tx.get(RELEASES, f"{service.name}/production")
        live = msgspec.convert(row, Release) if row else live
        if live.challenger is None:
            raise Conflict("the challenger left meanwhile", hint=f"see `holdfast release status {service.name}`")
        test = tx.get(ABTESTS, service.name)
        if test is not None and test["status"] == "running":
            raise Conflict(
                "an A/B test is running: another weight would assign keys anew",
                hint=f"end it first: holdfast release abtest stop {service.name}",
            )
        release = publish(
            tx,
            msgspec.structs.replace(
                live, challenger=msgspec.structs.replace(live.challenger, weight=weight), reason=reason
            ),
            service=service,
            under=under,
            at=at,
            actor=ws.actor,
        )
    project_files(ws, service.name)
    return release


def describe(release: Release | None) -> str:
    """One line: who answers, with which share."""
    if release is None or release.champion is None:
        return "nothing released"
    text = f"{release.model}@{release.champion.version}"
    if release.challenger is not None:
        text += f", challenger @{release.challenger.version} at {release.challenger.weight:g} %"
    if release.shadow is not None:
        text += f", shadow @{release.shadow.version}"
    return f"{text} since {iso(release.at)}"


def age_text(rollout: Rollout, now: int) -> str:
    """How long the present step has lasted."""
    return duration_text(max(now - rollout.entered, 0))
