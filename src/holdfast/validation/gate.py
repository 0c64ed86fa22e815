"""The gate: evidence and rules in, verdict out. Pure: no clock, no disk, no network, no chance.

A rule fails if the whole interval lies on the wrong side of its threshold; it passes if the figure lies on the right
side and rests on at least the rule's sample; otherwise there is not enough evidence, which holds and never promotes.
A *fault* (NaN scores, a check that broke) fails by itself. What is missing is never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from holdfast.core.definitions import Rule
from holdfast.core.identity import digest, iso
from holdfast.core.records import Evidence, Outcome, RuleOutcome, Verdict, Waiver
from holdfast.validation import rules as naming

_ORDER: dict[Outcome, int] = {"fail": 0, "not enough evidence": 1, "pass": 2}


def decide(
    evidence: Sequence[Evidence],
    rules: Sequence[Rule],
    *,
    model: str,
    version: int,
    content: str,
    at: int,
    waivers: Sequence[Waiver] = (),
) -> Verdict:
    """The verdict over all evidence for one exact content, as of ``at`` (µs UTC).

    The outcome is the worst among the results that count. Waivers that are in force at ``at`` take a result out of the
    count and are named in it. Evidence no rule asks for is kept by its digest and judged by nobody.
    """
    results: list[RuleOutcome] = []
    for rule in rules:
        found = [e for e in evidence if e.check == naming.key(rule)]
        results += _rule(rule, found)
    results = [_waive(r, waivers, model=model, version=version, at=at) for r in results]
    counted = [r.outcome for r in results if r.counts and r.waived_by is None]
    if not rules:
        outcome: Outcome = "not enough evidence"
    else:
        outcome = min(counted, key=_ORDER.__getitem__, default="pass")
    return Verdict(
        model=model, version=version, content=content, outcome=outcome, results=results,
        rules=naming.digest_of(tuple(rules)), evidence=evidence_digest(evidence), at=at,
    )  # fmt: skip


def evidence_digest(evidence: Sequence[Evidence]) -> str:
    """One hash for a list of evidence, in its order."""
    return digest(list(evidence))


def _rule(rule: Rule, found: Sequence[Evidence]) -> list[RuleOutcome]:
    name = naming.key(rule)
    if not found:
        return [
            RuleOutcome(
                check=name,
                outcome="not enough evidence",
                message="nothing was measured for this rule",
                threshold=_threshold(rule),
            )
        ]
    results = [_one(rule, e) for e in found]
    if not any(r.counts for r in results):
        # Notes alone carry no rule: three tiny groups are not fairness shown.
        results.append(
            RuleOutcome(
                check=name,
                outcome="not enough evidence",
                threshold=_threshold(rule),
                message=f"no group has the {rule.sample} rows this rule asks for",
            )
        )
    return results


def _one(rule: Rule, e: Evidence) -> RuleOutcome:
    """One piece of evidence against its rule."""
    low_bar, high_bar = _bars(rule, e)

    def result(outcome: Outcome, message: str, *, counts: bool = True) -> RuleOutcome:
        return RuleOutcome(
            check=e.check, outcome=outcome, message=message, figure=e.figure, low=e.low, high=e.high, n=e.n,
            threshold=low_bar if low_bar is not None else high_bar, group=e.group, counts=counts,
        )  # fmt: skip

    fault = e.details.get("fault")
    if fault:
        return result("fail", str(fault))
    if e.details.get("satisfied"):
        return result("pass", str(e.details["satisfied"]))
    if e.details.get("note"):
        return result("not enough evidence", str(e.details["note"]), counts=False)
    figure, low, high = e.figure, e.low, e.high
    if figure is None or not math.isfinite(figure):
        return result("not enough evidence", str(e.details.get("missing") or "the figure is undefined on these rows"))
    if low_bar is None and high_bar is None:
        return result("not enough evidence", "this rule states no threshold")
    low = figure if low is None or math.isnan(low) else min(low, figure)
    high = figure if high is None or math.isnan(high) else max(high, figure)
    shown = f"{_say(figure, e.unit)} [{_say(low, e.unit)}, {_say(high, e.unit)}], n = {e.n}"
    few = e.n < rule.sample
    if few and rule.options.get("group"):
        return result("not enough evidence", f"{shown}: under {rule.sample} rows neither pass nor fail")
    if low_bar is not None and high < low_bar:
        return result("fail", f"{shown}: all of the interval lies under {_say(low_bar, e.unit)}")
    if high_bar is not None and low > high_bar:
        return result("fail", f"{shown}: all of the interval lies over {_say(high_bar, e.unit)}")
    wrong = (low_bar is not None and figure < low_bar) or (high_bar is not None and figure > high_bar)
    if wrong:
        return result(
            "not enough evidence", f"{shown}: on the wrong side of {_bar_text(low_bar, high_bar)}, but not surely"
        )
    if few:
        return result("not enough evidence", f"{shown}: a pass needs {rule.sample} rows")
    return result("pass", shown)


def _say(value: float, unit: str) -> str:
    """A figure as people read it: seconds and bytes with the prefix that fits."""
    scales = {
        "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
        "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    }.get(unit)
    if scales is None or not math.isfinite(value) or not value:
        return f"{value:.4g}"
    scale, name = next((s for s in scales if abs(value) >= s[0]), scales[-1])
    return f"{value / scale:.4g} {name}"


def _bars(rule: Rule, e: Evidence) -> tuple[float | None, float | None]:
    """The thresholds that hold for this evidence; a rule may have one of its own for a named part (latency's p99)."""
    if e.group in naming.bounded_parts(rule):
        return None, float(rule.options[str(e.group)])
    return rule.minimum, rule.maximum


def _bar_text(low: float | None, high: float | None) -> str:
    return " and ".join(f"{sign} {bar:g}" for sign, bar in (("≥", low), ("≤", high)) if bar is not None)


def _threshold(rule: Rule) -> float | None:
    return rule.minimum if rule.minimum is not None else rule.maximum


def _waive(result: RuleOutcome, waivers: Sequence[Waiver], *, model: str, version: int, at: int) -> RuleOutcome:
    if result.outcome == "pass":
        return result
    for waiver in waivers:
        fits = (
            waiver.check in (result.check, result.check.split("(", 1)[0])
            and waiver.at <= at < waiver.until
            and waiver.group in (None, result.group)
            and waiver.model in (None, model)
            and waiver.version in (None, version)
            and bool(waiver.by.strip())
            and bool(waiver.reason.strip())
        )
        if fits:
            import msgspec

            return msgspec.structs.replace(result, waived_by=f"{waiver.by} until {iso(waiver.until)}: {waiver.reason}")
    return result
