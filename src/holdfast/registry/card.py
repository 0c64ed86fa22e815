"""The model card: one self-contained HTML page, no script, everything escaped, plots as inline SVG.

It draws from the evidence the verdict names and the decision record; it measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from holdfast.core.identity import iso
from holdfast.core.records import Evidence, Json, ModelVersion, Package, RuleOutcome, Verdict, Waiver
from holdfast.registry.live_verdicts import LiveVerdict
from holdfast.registry.plots import GREY, INK, OTHER, Line, Span, forest, square

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:68rem;padding:0 1rem;color:#16242d;background:#fff}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}table.wide{width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #dde5e9}
.pass{color:#0a6b3d}.fail{color:#b3261e;font-weight:600}.hold{color:#8a5a00}.plots{display:flex;flex-wrap:wrap;gap:1.5rem}
figure{margin:0}figcaption{font-weight:600}svg{background:#f7fafb;max-width:100%}code{font-size:.85em;overflow-wrap:anywhere}
@media(prefers-color-scheme:dark){body{background:#0f1a20;color:#dfe9ee}svg{background:#16262e}th,td{border-color:#2b3d47}
.pass{color:#5fd39a}.fail{color:#ff8a80}.hold{color:#ffc55c}}
"""


def html(
    version: ModelVersion,
    package: Package,
    verdict: Verdict | None,
    evidence: Sequence[Evidence] = (),
    *,
    decision: Json | None = None,
    waived: Sequence[Waiver] = (),
    live: Sequence[LiveVerdict] = (),
) -> str:
    """The page for a version: verdict by layer, plots, groups, slices, against the champion, why, inputs, origin."""
    curves = next((e.details for e in evidence if e.check == "curves"), {})
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<title>{escape(version.name)}@{version.version}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(version.name)}@{version.version}</h1>",
        f"<p>{escape(version.description)}</p>" if version.description else "",
        _verdict(verdict, evidence),
        _waivers(waived),
        _live(live),
        _figures(curves),
        _champion(curves.get("champion")),
        _groups(evidence, verdict),
        _slices(evidence, verdict),
        _why(decision),
        _inputs(package),
        _origin(version, package),
        "</body></html>",
    ]
    return "\n".join(p for p in parts if p)


# --- the verdict ------------------------------------------------------------------------------------------------------


def _verdict(verdict: Verdict | None, evidence: Sequence[Evidence]) -> str:
    if verdict is None:
        return "<h2>Gate</h2><p class=hold>This version has not been measured.</p>"
    layers = {(e.check, e.group): e.layer for e in evidence}
    table = _results(verdict, layers)
    return f"<h2>Gate: {escape(verdict.outcome)}</h2><p>{escape(iso(verdict.at))}</p>{table}"


def _results(verdict: Verdict, layers: Mapping[tuple[str, str | None], str]) -> str:
    """One row per result; ``layers`` by check and group."""
    rows = [
        [f"<td class={_css(r)}>{escape('waived' if r.waived_by else r.outcome if r.counts else 'note')}</td>", r.check,
         layers.get((r.check, r.group), ""), r.group or "", _number(r.figure), _interval(r.low, r.high), r.n,
         r.message + (f" (waived by {r.waived_by})" if r.waived_by else "")]
        for r in verdict.results
    ]  # fmt: skip
    return _table(("outcome", "check", "layer", "group", "figure", "interval", "n", ""), rows, wide=True)


def _live(live: Sequence[LiveVerdict]) -> str:
    """What ended each step of the version's rollouts."""
    parts = []
    for one in live:
        told = f"{one.step} at {one.weight:g} % on {one.service}: {one.verdict.outcome}, {iso(one.verdict.at)}"
        layers = {(r.check, r.group): "live" for r in one.verdict.results}
        parts.append(f"<h3>{escape(told)}</h3>{_results(one.verdict, layers)}")
    return f"<h2>Live</h2>{''.join(parts)}" if parts else ""


def _waivers(waived: Sequence[Waiver]) -> str:
    """What was in force when the page was drawn, also what was waived after the verdict."""
    if not waived:
        return ""
    rows = [[w.check, w.group or "", w.by, iso(w.until), w.reason] for w in waived]
    return f"<h2>Waivers in force</h2>{_table(('check', 'group', 'by', 'until', 'why'), rows)}"


def _css(result: RuleOutcome) -> str:
    return {"pass": "pass", "fail": "fail"}.get(result.outcome, "hold") if not result.waived_by else "hold"


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"[{low:.4g}, {high:.4g}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, wide: bool = False) -> str:
    """A table; cells are escaped, except those that already are ``<td>``."""
    cells = "".join(
        "<tr>"
        + "".join(c if isinstance(c, str) and c.startswith("<td") else f"<td>{escape(str(c))}</td>" for c in row)
        + "</tr>"
        for row in rows
    )
    return f"<table{' class=wide' if wide else ''}><tr>{''.join(f'<th>{escape(h)}</th>' for h in head)}</tr>{cells}</table>"


# --- the figures people look at ---------------------------------------------------------------------------------------


def _figures(curves: Mapping[str, Any]) -> str:
    parts = []
    if curves.get("roc"):
        parts += _binary(curves)
    if curves.get("calibration"):
        parts.append(_calibration(curves))
    if curves.get("matrix"):
        parts.append(_matrix(curves["classes"], curves["matrix"]))
    if curves.get("residuals"):
        parts.append(_residuals(curves["residuals"]))
    return f"<h2>Figures</h2><div class=plots>{''.join(parts)}</div>" if parts else ""


def _binary(curves: Mapping[str, Any]) -> list[str]:
    cells = curves["confusion"]
    recall = cells["tp"] / max(cells["tp"] + cells["fn"], 1)
    fpr = cells["fp"] / max(cells["fp"] + cells["tn"], 1)
    precision = cells["tp"] / max(cells["tp"] + cells["fp"], 1)
    other = curves.get("champion") or {}
    mine, theirs = ("this version", other.get("name") or "champion") if other else ("", "")
    thresholds = curves["thresholds"]
    confusion = _table(
        ("", "said 0", "said 1"), [["is 0", cells["tn"], cells["fp"]], ["is 1", cells["fn"], cells["tp"]]]
    )
    return [
        square(
            "ROC", "false positive rate", "recall",
            [*([Line(other["roc"], GREY, theirs)] if other.get("roc") else []), Line(curves["roc"], INK, mine)],
            mark=(fpr, recall), diagonal=True,
        ),
        square(
            "Precision and recall", "recall", "precision",
            [*([Line(other["pr"], GREY, theirs)] if other.get("pr") else []), Line(curves["pr"], INK, mine)],
            mark=(recall, precision),
        ),
        square(
            "By threshold", "threshold", "share",
            [Line([(t, p[0]) for t, p in zip(thresholds, curves["pr"], strict=False)], INK, "recall"),
             Line([(t, p[1]) for t, p in zip(thresholds, curves["pr"], strict=False)], OTHER, "precision")],
            at=curves["threshold"],
        ),
        f"<figure><figcaption>At threshold {_number(curves['threshold'])}</figcaption>{confusion}</figure>",
    ]  # fmt: skip


def _calibration(curves: Mapping[str, Any]) -> str:
    bins = curves["calibration"]
    ends = [v for b in bins for v in (b["score"], b["share"])]
    span = (min(ends), max(ends)) if curves.get("task") == "regression" else (0.0, 1.0)
    return square(
        "Calibration", "mean score", "what came true", [Line([(b["score"], b["share"]) for b in bins])], x=span, y=span,
        diagonal=True, bars=[(b["score"], b["low"], b["high"]) for b in bins],
    )  # fmt: skip


def _matrix(classes: Sequence[Any], matrix: Sequence[Sequence[int]]) -> str:
    rows = [[f"is {name}", *counts] for name, counts in zip(classes, matrix, strict=True)]
    return f"<figure><figcaption>Confusion</figcaption>{_table(('', *(f'said {c}' for c in classes)), rows)}</figure>"


def _residuals(bars: Sequence[Mapping[str, float]]) -> str:
    top = max(b["share"] for b in bars)
    outline = [(x, b["share"]) for b in bars for x in (b["low"], b["high"])]
    return square(
        "Errors", "prediction minus truth", "share of rows", [Line(outline)], x=(bars[0]["low"], bars[-1]["high"]),
        y=(0, top), at=0.0,
    )  # fmt: skip


def _champion(champion: Mapping[str, Any] | None) -> str:
    if not champion or not champion.get("metrics"):
        return ""
    rows = [
        [
            m["metric"],
            _number(m["candidate"]),
            _number(m["champion"]),
            _number(m["better"]),
            _interval(m["low"], m["high"]),
        ]
        for m in champion["metrics"]
    ]
    head = ("metric", "this version", str(champion.get("name") or "champion"), "better by", "interval, paired")
    return f"<h2>Against {escape(str(champion.get('name') or 'the champion'))}</h2><p>On the same held-out rows.</p>{_table(head, rows)}"


# --- groups and slices ------------------------------------------------------------------------------------------------


def _bad(verdict: Verdict | None) -> set[tuple[str, str | None]]:
    return {(r.check, r.group) for r in verdict.results if r.outcome == "fail"} if verdict else set()


def _groups(evidence: Sequence[Evidence], verdict: Verdict | None) -> str:
    bad = _bad(verdict)
    bars = {r.check: r.threshold for r in verdict.results} if verdict else {}
    plots = []
    for check in dict.fromkeys(e.check for e in evidence if e.check.startswith("fairness(")):
        found = [e for e in evidence if e.check == check and e.group and e.details.get("value") is not None]
        if not found:
            continue
        whole = float(found[0].details["whole"])
        rows = [
            Span(str(e.group), e.details["value"], _plus(whole, e.details["gap_low"]), _plus(whole, e.details["gap_high"]),
                 e.n, (check, e.group) in bad)
            for e in found
        ]  # fmt: skip
        gap = bars.get(check)
        allowed = (None, None) if gap is None else (whole - gap, whole + gap)
        plots.append(forest(check, f"dashed: everyone, {whole:.3g}", rows, centre=whole, allowed=allowed))
    for e in evidence:
        if e.check.startswith(("four_fifths(", "equalised_odds(")) and e.details.get("groups"):
            rows = [
                Span(name, g["value"], g["low"], g["high"], g["n"]) for name, g in e.details["groups"].items()
            ]  # fmt: skip
            plots.append(forest(f"{e.check}: {_number(e.figure)}", f"{e.group} of each group", rows))
    return f"<h2>Groups</h2><div class=plots>{''.join(plots)}</div>" if plots else ""


def _plus(whole: float, gap: float | None) -> float | None:
    return None if gap is None else whole + gap


def _slices(evidence: Sequence[Evidence], verdict: Verdict | None) -> str:
    bars = {r.check: r.threshold for r in verdict.results} if verdict else {}
    plots = []
    for e in evidence:
        if not e.check.startswith("slices(") or not e.details.get("slices"):
            continue
        bar = bars.get(e.check)
        rows = [
            Span(
                s["slice"],
                s["drop"],
                s["low"],
                s["high"],
                s["n"],
                bar is not None and s["low"] is not None and s["low"] > bar,
            )
            for s in e.details["slices"]
            if s["drop"] is not None
        ]
        note = f"worse than everyone ({_number(e.details['whole'])}) by; {e.details['looked_at']} slices looked at"
        plots.append(forest(e.check, note, rows[:12], centre=0.0, allowed=(None, bar)))
    return f"<h2>Slices</h2><div class=plots>{''.join(plots)}</div>" if plots else ""


# --- why --------------------------------------------------------------------------------------------------------------


def _why(decision: Json | None) -> str:
    """The decision record: candidates, the threshold's costs, what each input is worth."""
    if not decision:
        return ""
    parts = ["<h2>Why</h2>"]
    model = decision.get("why_this_model") or {}
    if model.get("candidates"):
        names = sorted({k for c in model["candidates"] for k in c["metrics"]})
        rows = [
            ["chosen" if i == model.get("chosen") else "", c["params"], *(_number(c["metrics"].get(n)) for n in names)]
            for i, c in enumerate(model["candidates"])
        ]
        parts.append(f"<h3>This model</h3><p>By {escape(str(model.get('chosen_by')))} on the tune rows.</p>")
        parts.append(_table(("", "parameters", *names), rows))
    cut = decision.get("why_this_threshold") or {}
    plots = []
    if cut.get("curve"):
        points = [(p["threshold"], p["cost"]) for p in cut["curve"]]
        costs = cut.get("costs") or {}
        note = f"cost a row, a miss {_number(costs.get('miss'))}, a false alarm {_number(costs.get('false_alarm'))}"
        x, y = (points[0][0], points[-1][0]), (0.0, max(p[1] for p in points))
        plots.append(square("This threshold", "threshold", note, [Line(points)], x=x, y=y, at=cut.get("threshold")))
    features = decision.get("why_these_features") or {}
    for kind, title in (("importance", "shuffled"), ("ablation", "left out")):
        spans = [Span(f["feature"], f["drop"], f["low"], f["high"], f.get("n", 0)) for f in features.get(kind) or []]
        if spans:
            note = f"drop of {features.get('metric')} when one input is {title}"
            plots.append(forest(f"These features: {kind}", note, spans[:20], centre=0.0))
    return "".join(parts) + f"<div class=plots>{''.join(plots)}</div>"


# --- where it comes from ----------------------------------------------------------------------------------------------


def _inputs(package: Package) -> str:
    rows = [[f.name, f.dtype, "yes" if f.nullable else "no", _number(f.low), _number(f.high)] for f in package.inputs]
    return f"<h2>Inputs</h2>{_table(('name', 'type', 'may be missing', 'lowest seen', 'highest seen'), rows)}"


def _origin(version: ModelVersion, package: Package) -> str:
    facts = {
        "content": version.content,
        "run": version.run_id,
        "training set": version.training_set,
        "format": package.format,
        "task": package.task,
        "threshold": None if package.threshold is None else f"{package.threshold:g}",
        "feature service": package.feature_service,
    }
    rows = "".join(
        f"<tr><th>{escape(k)}</th><td><code>{escape(str(v))}</code></td></tr>" for k, v in facts.items() if v
    )
    return f"<h2>Where it comes from</h2><table>{rows}</table>"
