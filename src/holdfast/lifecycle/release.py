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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.core.definitions import Project, Service
from holdfast.core.errors import Conflict, NotApproved, NotFound, Unavailable
from holdfast.core.identity import duration_text, iso, new_id
from holdfast.core.ports import Ledger, LedgerTransaction
from holdfast.core.records import Arm, Evidence, Json, ModelVersion, Release, Rollout, Verdict

if TYPE_CHECKING:
    from holdfast.workspace import Workspace

RELEASES = "releases"
ROLLOUTS = "rollouts"
SMOKES = "smokes"
LIVE_FEATURES = "live_features"
START_SECONDS = 60.0


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


def _publish(tx: LedgerTransaction, change: Release, *, at: int, actor: str) -> Release:
    """Record a release under the next sequence, in the caller's transaction."""
    key = f"{change.service}/{change.environment}"
    known = tx.get(RELEASES, key)
    release = msgspec.structs.replace(change, sequence=(known["sequence"] + 1 if known else 1), at=at, signature="")
    tx.put(RELEASES, key, msgspec.to_builtins(release))
    tx.append("release", subject=release.service, at=at, actor=actor, body={"release": msgspec.to_builtins(release)})
    return release


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
    """off | warn | enforce for this service's model."""
    from holdfast.registry import pointers

    return pointers.policy_for(Project([service]), service.model.name, ws.settings.gate.policy)


def missing_for_production(ws: Workspace, service: Service, version: ModelVersion) -> list[str]:
    """What a version still lacks before it may answer production traffic; empty when nothing."""
    from holdfast.lifecycle import decision
    from holdfast.registry import versions

    missing = []
    verdict: Verdict | None = versions.verdict(ws.ledger, version.name, version.version)
    reference = f"{version.name}@{version.version}"
    if verdict is None or verdict.content != version.content:
        missing.append(f"a verdict of the gate: run `holdfast check {reference}`")
    elif verdict.outcome != "pass":
        failed = "; ".join(named(verdict))
        missing.append(f"a passing verdict: the gate said {verdict.outcome!r} ({failed})")
    if service.gate.decision_record and not decision.has(ws.ledger, version):
        missing.append(f"a decision record: `holdfast check {reference}` makes one")
    smoke = ws.ledger.get(SMOKES, f"{service.name}/{version.content}")
    if smoke is None or smoke.get("outcome") != "pass":
        missing.append(f"a staging release that passed smoke: run `holdfast deploy {reference} --to staging`")
    return missing


def require_production(ws: Workspace, service: Service, version: ModelVersion) -> None:
    """Raises:
    NotApproved: policy is enforce and something is missing; the message names all of it."""
    missing = missing_for_production(ws, service, version)
    if missing and policy_of(ws, service) == "enforce":
        raise NotApproved(
            f"{version.name}@{version.version} may not answer production traffic: it lacks {missing[0]}",
            hint="; ".join(missing),
        )


# --- staging and smoke ------------------------------------------------------------------------------------------------


def stage(ws: Workspace, service: Service, version: ModelVersion, *, at: int, reason: str = "") -> Release:
    """Make ``version`` the staging release of a service."""
    with ws.ledger.transaction() as tx:
        release = _publish(
            tx, Release(service=service.name, model=version.name, environment="staging", sequence=0,
                        champion=Arm(version=version.version, content=version.content, weight=100.0), salt=service.name, reason=reason),
            at=at, actor=ws.actor,
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
        yield _wait_ready(about, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(about: Path, process: subprocess.Popen[bytes], log: Path) -> Json:
    deadline = time.monotonic() + START_SECONDS
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
    raise Unavailable(f"the server was not ready in {START_SECONDS:.0f} s", hint=f"its log is {log}")


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
            _wait_loaded(about["address"])
            for row in golden:
                status, answer = _post(
                    about["address"] + "/predict", {"rows": [row["request"]], "request_time": row["request_time"]}
                )
                predictions = answer.get("predictions") or [{}]
                if status != 200:
                    problems.append(f"HTTP {status}: {str(answer)[:200]}")
                elif predictions[0].get("version") != version.version:
                    problems.append(f"answered by version {predictions[0].get('version')}")
                elif not isinstance(predictions[0].get("score"), float | int):
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


def _wait_loaded(address: str) -> None:
    """Return when the server says it is ready, or after START_SECONDS: its answers then say what is wrong."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(address + "/health/ready", timeout=5) as response:  # noqa: S310  (our own loopback address)
            if response.status == 200:
                return
        time.sleep(0.05)


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

    require_production(ws, service, version)
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
            if before.status in ("running", "holding"):
                raise Conflict(
                    f"{before.model}@{before.version} is being rolled out on {service.name!r}",
                    hint=f"wait for it, or `holdfast release abort {service.name}`",
                )
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
        outcome, why = judge(ws, service, rollout, now=now)
        move = steps.next(rollout, outcome, now)  # type: ignore[arg-type]
        before = rollout
        rollout = _apply(ws, service, rollout, move, why, now=now)
        if move.action != "advance" or rollout.step == before.step:
            return rollout
        if rollout.plan[rollout.step]["step"] in ("canary", "shadow"):
            return rollout


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
    from holdfast.serving import journal
    from holdfast.validation import gate, live

    predictions = journal.read(ws.home / "predictions" / service.name, since=rollout.entered, until=now)
    if predictions.num_rows == 0:
        return None, ["no predictions since the step began"]
    challenger = _side(predictions, "shadow" if step == "shadow" else "challenger", rollout.version)
    champion = _side(predictions, "champion", None)
    truth = labels.LabelStore(ws.home / "labels" / service.name).read()
    evidence = live.evidence(champion, challenger, truth, rollout=service.rollout)
    # Truth is asked for where it flows: labels that never come would hold a good canary for ever.
    flowing = truth.num_rows and pc.sum(pc.is_in(champion["id"], value_set=truth["prediction_id"])).as_py()
    verdict = gate.decide(
        evidence,
        live.rules(service.rollout, labels=(flowing or 0) >= service.rollout.minimum),
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
    from holdfast.registry import package as packages

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
            _publish(
                tx,
                msgspec.structs.replace(
                    base, model=rollout.model, champion=msgspec.structs.replace(arm, weight=100.0), challenger=None
                ),
                at=now,
                actor=ws.actor,
            )
        elif move.action in ("rollback", "abort"):
            if live is not None:
                _publish(tx, msgspec.structs.replace(base, challenger=None), at=now, actor=ws.actor)
        elif move.action == "advance":
            kind = rollout.plan[move.step]["step"]
            if kind == "shadow":
                _publish(tx, msgspec.structs.replace(base, shadow=arm, challenger=None), at=now, actor=ws.actor)
            elif kind == "canary":
                _publish(tx, msgspec.structs.replace(base, challenger=arm), at=now, actor=ws.actor)
        if move.action == "promote":
            manifest = packages.load(ws.objects, rollout.content)
            tx.put(
                LIVE_FEATURES,
                service.name,
                {"model": f"{rollout.model}@{rollout.version}", "features": manifest.features},
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
    if move.action == "promote":
        approve_champion(ws, service, rollout, at=now)
    return after


def approve_champion(ws: Workspace, service: Service, rollout: Rollout, *, at: int) -> None:
    """Move stage Production and alias champion to the version that now answers; archive the one before."""
    from holdfast.registry import pointers

    policy = policy_of(ws, service)
    pointers.move_stage(
        ws.ledger,
        rollout.model,
        rollout.version,
        "Production",
        policy=policy,
        at=at,
        actor=ws.actor,
        reason=f"rollout {rollout.id}",
    )
    pointers.move_alias(
        ws.ledger,
        rollout.model,
        "champion",
        rollout.version,
        policy=policy,
        at=at,
        actor=ws.actor,
        reason=f"rollout {rollout.id}",
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
        require_production(ws, service, versions.get(ws.ledger, rollout.model, rollout.version))
        return _apply(ws, service, rollout, Move("promote", 100.0, len(rollout.plan) - 1, reason), [], now=at)
    return _apply(ws, service, rollout, Move("abort", 0.0, rollout.step, reason), [], now=at)


# --- by hand ----------------------------------------------------------------------------------------------------------


def rollback(ws: Workspace, service: str, *, at: int, reason: str) -> Release:
    """Give traffic back at once: end a running rollout, else return to the champion before.

    Raises:
        NotFound: nothing is live, or there is nothing to go back to.
    """
    live = current(ws.ledger, service, "production")
    if live is None or live.champion is None:
        raise NotFound(f"service {service!r} has no production release", hint="deploy a version first")
    rollout = rollout_of(ws.ledger, service)
    with ws.ledger.transaction() as tx:
        if live.challenger is not None or live.shadow is not None:
            target = msgspec.structs.replace(live, challenger=None, shadow=None, reason=reason)
        else:
            earlier = [
                r for r in history(ws.ledger, service) if r.champion and r.champion.content != live.champion.content
            ]
            if not earlier:
                raise NotFound(
                    f"service {service!r} has had no other champion than {live.model}@{live.champion.version}",
                    hint="deploy another version",
                )
            target = msgspec.structs.replace(
                live,
                model=earlier[-1].model,
                champion=earlier[-1].champion,
                challenger=None,
                shadow=None,
                reason=reason,
            )
        release = _publish(tx, target, at=at, actor=ws.actor)
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
        tx.append(
            "rollback",
            subject=service,
            body={"to": release.champion.version if release.champion else None, "reason": reason},
            at=at,
            actor=ws.actor,
        )
    project_files(ws, service)
    return release


def set_weight(ws: Workspace, service: Service, weight: float, *, at: int, reason: str) -> Release:
    """Move the running challenger to another weight (percent).

    Raises:
        NotFound: there is no challenger. NotApproved: it may not answer production traffic.
    """
    from holdfast.registry import versions

    live = current(ws.ledger, service.name, "production")
    if live is None or live.challenger is None:
        raise NotFound(f"service {service.name!r} has no challenger", hint="deploy a version first")
    require_production(ws, service, versions.get(ws.ledger, live.model, live.challenger.version))
    with ws.ledger.transaction() as tx:
        release = _publish(
            tx,
            msgspec.structs.replace(
                live, challenger=msgspec.structs.replace(live.challenger, weight=weight), reason=reason
            ),
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
