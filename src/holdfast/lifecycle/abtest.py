"""A/B tests of a service: planned before, assigned by the release's salt, looked at any time, decided in the ledger.

A test holds the traffic of its service: no rollout begins and no weight moves while it runs. The loop looks every
``every``; a look that decides moves traffic and records the decision, with what it rests on, in one transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.core.definitions import Service
from holdfast.core.errors import BadInput, Conflict, NotFound
from holdfast.core.identity import DAY, new_id
from holdfast.core.ports import Ledger
from holdfast.core.records import ABTest, Arm, Json, ModelVersion, Release
from holdfast.core.traffic import ABTest as Declared
from holdfast.lifecycle import approval, release, rollouts

if TYPE_CHECKING:
    from holdfast.workspace import Workspace

ABTESTS = release.ABTESTS
LOOKED = "abtest_looks"
RECENT = 30 * DAY


def of(ledger: Ledger, service: str) -> ABTest | None:
    """The newest A/B test of a service, running or ended."""
    row = ledger.get(ABTESTS, service)
    return msgspec.convert(row, ABTest) if row else None


def plan(ws: Workspace, service: Service, declared: Declared, *, now: int) -> Json:
    """What was declared, and the sample it needs: ``planned`` = keys per arm, for a single look at the end beside it, and
    the days that takes at the recent traffic. The champion's mean and variance come from the log unless declared.

    Raises:
        BadInput: no baseline is declared and the log has no truth to take one from.
    """
    from holdfast.serving import abtest
    from holdfast.stats import sequential

    live = release.current(ws.ledger, service.name, "production")
    if live is None or live.champion is None:
        raise NotFound(f"service {service.name!r} has no champion to test against", hint="deploy a version first")
    log, labels = _log(ws, service.name, since=now - RECENT, until=now)
    probe = ABTest(
        id="", service=service.name, model=live.model, version=-1, content="", control=live.champion.version, weight=0.0,
        plan={"metric": declared.metric, "hashed": True}, started=now,
    )  # fmt: skip
    counted = abtest.count(probe, log, labels)
    seen = counted.arms[declared.metric][0]
    ratio = declared.weight / (100 - declared.weight)
    wanted: dict[str, Any] = {"alpha": declared.alpha, "power": declared.power, "ratio": ratio}
    baseline = declared.baseline
    if baseline is None:
        if seen.n < sequential.LEAST:
            raise BadInput(
                f"the log has {seen.n} keys with a truth in the last 30 days; a baseline needs {sequential.LEAST}",
                hint="give the champion's mean: --baseline, or baseline= in the definition",
            )
        baseline = seen.mean
    rate = declared.metric in ("label", "accuracy") and 0 < baseline < 1 and (seen.n < 2 or seen.variance <= 0.2501)
    sizes = []
    for always in (True, False):
        if rate:
            shift = declared.effect if baseline + declared.effect < 1 else -declared.effect
            sizes.append(sequential.plan_proportions(baseline, shift, sequential=always, **wanted))
        else:
            if seen.n < sequential.LEAST:
                raise BadInput(
                    "the spread of this metric is not known: the log has too few keys with a truth",
                    hint="let the champion answer, and labels come in, first",
                )
            sizes.append(sequential.plan(seen.variance, seen.variance, declared.effect, sequential=always, **wanted))
    days = _days(log, counted, now)
    each_day = counted.keys[0] / days if days else 0.0
    told: Json = {
        **declared.spec(), "baseline": baseline,
        "planned": {"control": sizes[0][0], "treatment": sizes[0][1]},
        "single_look": {"control": sizes[1][0], "treatment": sizes[1][1]},
        "keys_each_day": round(each_day, 1), "days": round(sum(sizes[0]) / each_day, 1) if each_day else None,
        "hashed": release.key_is_hidden(ws, live),
    }  # fmt: skip
    return told


def begin(ws: Workspace, service: Service, version: ModelVersion, declared: Declared, *, at: int) -> ABTest:
    """Give ``version`` its share of the keys. It needs what any version needs for production traffic.

    Raises:
        NotApproved: the gate or the smoke test is missing under enforce.
        Conflict: a rollout or another test is under way, or the version is the champion itself.
    """
    release.require_production(ws, service, version, at=at)
    planned = plan(ws, service, declared, now=at)
    live = release.current(ws.ledger, service.name, "production")
    assert live is not None and live.champion is not None
    if live.champion.content == version.content:
        raise Conflict(f"{version.name}@{version.version} is the champion", hint="test another version against it")
    test = ABTest(
        id=new_id(at), service=service.name, model=version.name, version=version.version, content=version.content,
        control=live.champion.version, weight=declared.weight, plan=planned, started=at,
    )  # fmt: skip
    under = approval.terms_of(ws, service)
    with ws.ledger.transaction() as tx:
        release.require_no_other(tx, service.name)
        row = tx.get(release.RELEASES, f"{service.name}/production")
        base = msgspec.convert(row, Release)
        if base.champion is None or base.champion.version != test.control:
            raise Conflict("the champion changed meanwhile", hint="run the command again")
        challenger = Arm(version=test.version, content=test.content, weight=test.weight)
        release.publish(
            tx,
            msgspec.structs.replace(
                base, challenger=challenger, shadow=None, salt=test.id, reason=f"A/B test {test.id}"
            ),
            service=service, under=under, at=at, actor=ws.actor,
        )  # fmt: skip
        tx.put(ABTESTS, service.name, msgspec.to_builtins(test))
        tx.append("abtest.begun", subject=service.name, body=msgspec.to_builtins(test), at=at, actor=ws.actor)
    release.project_files(ws, service.name)
    return test


def status(ws: Workspace, test: ABTest, *, now: int) -> Json:
    """What the test shows now; for one that has ended, what it showed when it was decided."""
    return test.result if test.status != "running" else _look(ws, None, test, now=now)[0]


def advance(ws: Workspace, service: Service, *, now: int, every: int | None = None) -> ABTest | None:
    """Look at the running test and do what the stop rule says; the test after it. None where there is none.

    Args:
        every: do nothing when the last look is younger than this (µs).
    """
    from holdfast.monitoring import alerts

    test = of(ws.ledger, service.name)
    if test is None or test.status != "running":
        return test
    if every is not None:
        last = ws.ledger.get(LOOKED, service.name)
        if last is not None and last["id"] == test.id and now - int(last["at"]) < every:
            return test
    result, move = _look(ws, service, test, now=now)
    if move.action == "hold":
        with ws.ledger.transaction() as tx:
            tx.put(LOOKED, service.name, {"id": test.id, "at": now, "result": result})
        return test
    ended = _end(ws, service, test, move.status, move.reason, result, now=now, promote=move.action == "promote")
    if ended.status in ("guardrail", "invalid"):
        alerts.raise_thing(
            ws.ledger, service.name, "abtest", title=f"{service.name}: A/B test ended: {ended.status}", text=ended.reason, at=now
        )  # fmt: skip
    return ended


def stop(ws: Workspace, service: Service, *, at: int, reason: str) -> ABTest:
    """End the running test by hand; all traffic goes to the champion.

    Raises:
        NotFound: no test is running.
    """
    test = of(ws.ledger, service.name)
    if test is None or test.status != "running":
        raise NotFound(f"no A/B test of {service.name!r} is running", hint="`holdfast release abtest start` begins one")
    result, _ = _look(ws, service, test, now=at)
    return _end(ws, service, test, "stopped", reason, result, now=at, promote=False)


def _end(
    ws: Workspace, service: Service, test: ABTest, outcome: Any, reason: str, result: Json, *, now: int, promote: bool
) -> ABTest:
    if promote:
        # What the gate asks for may have been taken back since the test began.
        lacking = release.missing_for_production(
            ws, service, ModelVersion(name=test.model, version=test.version, content=test.content, run_id=None), at=now
        )
        if lacking and release.policy_of(ws, service) == "enforce":
            promote, reason = False, f"{reason}; not promoted: {lacking[0]}"
    ended = msgspec.structs.replace(test, status=outcome, reason=reason, ended=now, result=result)
    under, of_model = approval.terms_of(ws, service), approval.terms_of_model(ws, test.model, service)
    with ws.ledger.transaction() as tx:
        row = tx.get(ABTESTS, service.name)
        if row is None or row["id"] != test.id or row["status"] != "running":
            raise Conflict("the A/B test ended meanwhile", hint=f"see `holdfast release abtest status {service.name}`")
        live = msgspec.convert(tx.get(release.RELEASES, f"{service.name}/production"), Release)
        target = msgspec.structs.replace(live, challenger=None, reason=f"A/B test {test.id}: {outcome}")
        if promote:
            arm = Arm(version=test.version, content=test.content, weight=100.0)
            target = msgspec.structs.replace(target, model=test.model, champion=arm)
            release.note_live_features(ws, tx, service.name, test.model, test.version, test.content)
        release.publish(tx, target, service=service, under=under, at=now, actor=ws.actor)
        if promote:
            rollouts.approve_champion(ws, tx, ended, under=of_model, at=now)
        tx.put(ABTESTS, service.name, msgspec.to_builtins(ended))
        tx.append("abtest.ended", subject=service.name, body=msgspec.to_builtins(ended), at=now, actor=ws.actor)
    release.project_files(ws, service.name)
    return ended


def _look(ws: Workspace, service: Service | None, test: ABTest, *, now: int) -> tuple[Json, Any]:
    from holdfast.serving import abtest
    from holdfast.stats import sequential

    log, labels = _log(ws, test.service, since=test.started, until=now)
    counted = abtest.count(test, log, labels)
    found = abtest.look(test, counted)
    broken = [*_live(test, log), *abtest.guardrails(test, counted)]
    p_assignment = sequential.mismatch(*counted.keys, test.weight / 100)
    return abtest.told(test, counted, found, broken, p_assignment), abtest.next(test, found, broken, p_assignment, now)


def _live(test: ABTest, log: Any) -> list[str]:
    """Errors and latency of the challenger beyond what the test allows, by the rules a rollout is judged by."""
    import pyarrow.compute as pc

    from holdfast.core.definitions import Rollout
    from holdfast.validation import gate, live

    sides = [
        log.filter(pc.and_(pc.equal(log["arm"], arm), pc.equal(log["version"], version)))
        for arm, version in (("champion", test.control), ("challenger", test.version))
    ]
    bounds = Rollout(max_error_rate=test.plan["max_error_rate"], max_latency_ratio=test.plan["max_latency_ratio"])
    rules = [r for r in live.rules(bounds, labels=False) if r.metric in ("error_rate", "latency_ratio")]
    verdict = gate.decide(
        live.evidence(sides[0], sides[1], None, rollout=bounds), rules,
        model=test.model, version=test.version, content=test.content, at=0,
    )  # fmt: skip
    return [f"{r.check}: {r.message}" for r in verdict.results if r.outcome == "fail" and r.counts]


def _log(ws: Workspace, service: str, *, since: int, until: int) -> tuple[Any, Any]:
    from holdfast.monitoring import labels
    from holdfast.serving import journal

    return (
        journal.read(ws.home / "predictions" / service, since=since, until=until),
        labels.LabelStore(ws.home / "labels" / service).read(),
    )


def _days(log: Any, counted: Any, now: int) -> float:
    """Days of traffic that the log's rows span."""
    import pyarrow.compute as pc

    if not counted.rows[0]:
        return 0.0
    return max((now - int(pc.min(log["request_time"]).as_py())) / DAY, 1 / 24)
