"""The model card: one self-contained HTML page, no script, everything escaped, plots as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from holdfast.core.identity import iso
from holdfast.core.records import Evidence, ModelVersion, Package, RuleOutcome, Verdict

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:68rem;padding:0 1rem;color:#16242d;background:#fff}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #dde5e9}
.pass{color:#0a6b3d}.fail{color:#b3261e;font-weight:600}.hold{color:#8a5a00}.plots{display:flex;flex-wrap:wrap;gap:1.5rem}
figure{margin:0}figcaption{font-weight:600}svg{background:#f7fafb}code{font-size:.85em;overflow-wrap:anywhere}
@media(prefers-color-scheme:dark){body{background:#0f1a20;color:#dfe9ee}svg{background:#16262e}th,td{border-color:#2b3d47}
.pass{color:#5fd39a}.fail{color:#ff8a80}.hold{color:#ffc55c}}
"""
_SIZE = 260
_PAD = 34


def html(
    version: ModelVersion,
    package: Package,
    verdict: Verdict | None,
    evidence: Sequence[Evidence] = (),
    *,
    decision: str = "",
) -> str:
    """The page for a version: verdict, plots where there are curves among the evidence, groups, inputs, origin."""
    curves = next((e for e in evidence if e.check == "curves"), None)
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<title>{escape(version.name)}@{version.version}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(version.name)}@{version.version}</h1>",
        f"<p>{escape(version.description)}</p>" if version.description else "",
        _verdict(verdict),
        _plots(curves.details) if curves is not None and curves.details.get("roc") else "",
        _fairness(evidence),
        f"<h2>Why this model</h2><p>{escape(decision)}</p>" if decision else "",
        _inputs(package),
        _origin(version, package),
        "</body></html>",
    ]
    return "\n".join(p for p in parts if p)


def _verdict(verdict: Verdict | None) -> str:
    if verdict is None:
        return "<h2>Gate</h2><p class=hold>This version has not been measured.</p>"
    rows = "".join(
        f"<tr><td class={_css(r)}>{escape('waived' if r.waived_by else r.outcome)}</td><td>{escape(r.check)}</td>"
        f"<td>{escape(r.group or '')}</td><td>{_number(r.figure)}</td><td>{_interval(r)}</td><td>{r.n}</td>"
        f"<td>{escape(r.message)}{escape(f' (waived by {r.waived_by})') if r.waived_by else ''}</td></tr>"
        for r in verdict.results
    )
    head = "".join(f"<th>{h}</th>" for h in ("outcome", "check", "group", "figure", "interval", "n", ""))
    return (
        f"<h2>Gate: {escape(verdict.outcome)}</h2><p>{escape(iso(verdict.at))}</p><table><tr>{head}</tr>{rows}</table>"
    )


def _css(result: RuleOutcome) -> str:
    return {"pass": "pass", "fail": "fail"}.get(result.outcome, "hold") if not result.waived_by else "hold"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _interval(result: RuleOutcome) -> str:
    return "–" if result.low is None or result.high is None else f"[{result.low:.4g}, {result.high:.4g}]"


def _plots(curves: dict[str, Any]) -> str:
    cells = curves["confusion"]
    confusion = (
        f"<figure><figcaption>At threshold {_number(curves['threshold'])}</figcaption><table><tr><th></th><th>said 0</th><th>said 1</th></tr>"
        f"<tr><th>is 0</th><td>{int(cells['tn'])}</td><td>{int(cells['fp'])}</td></tr>"
        f"<tr><th>is 1</th><td>{int(cells['fn'])}</td><td>{int(cells['tp'])}</td></tr></table></figure>"
    )
    recall = cells["tp"] / max(cells["tp"] + cells["fn"], 1)
    fpr = cells["fp"] / max(cells["fp"] + cells["tn"], 1)
    precision = cells["tp"] / max(cells["tp"] + cells["fp"], 1)
    other = (curves.get("champion") or {}).get("roc")
    bars = [(b["score"], b["share"], b["low"], b["high"]) for b in curves["calibration"]]
    return (
        "<h2>Figures</h2><div class=plots>"
        + _plot("ROC", "false positive rate", "recall", curves["roc"], mark=(fpr, recall), diagonal=True, other=other)
        + _plot("Precision and recall", "recall", "precision", curves["pr"], mark=(recall, precision))
        + _plot("Calibration", "score", "share of positives", [b[:2] for b in bars], diagonal=True, bars=bars)
        + confusion
        + "</div>"
    )


def _xy(x: float, y: float) -> tuple[float, float]:
    inner = _SIZE - 2 * _PAD
    return _PAD + inner * min(max(float(x), 0), 1), _SIZE - _PAD - inner * min(max(float(y), 0), 1)


def _line(points: Sequence[Sequence[float]], colour: str, extra: str = "") -> str:
    path = " ".join("{:.1f},{:.1f}".format(*_xy(p[0], p[1])) for p in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" {extra}/>'


def _plot(
    title: str,
    across: str,
    up: str,
    points: Sequence[Sequence[float]],
    *,
    mark: tuple[float, float] | None = None,
    diagonal: bool = False,
    other: Sequence[Sequence[float]] | None = None,
    bars: Sequence[Sequence[float]] = (),
) -> str:
    """One square plot over [0, 1] × [0, 1]; a ring marks the served threshold, grey is the champion."""
    low, high = _xy(0, 0), _xy(1, 1)
    out = [
        f'<rect x="{low[0]}" y="{high[1]}" width="{high[0] - low[0]}" height="{low[1] - high[1]}" fill="none" stroke="#8aa0ab"/>'
    ]
    if diagonal:
        out.append(_line([(0, 0), (1, 1)], "#8aa0ab", 'stroke-dasharray="4 4"'))
    if other:
        out.append(_line(other, "#8aa0ab"))
    for x, _, bottom, top in bars:
        out.append(_line([(x, bottom), (x, top)], "#8aa0ab"))
    out.append(_line(points, "#0b7285"))
    if mark is not None:
        x, y = _xy(*mark)
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="none" stroke="#d9480f" stroke-width="2"/>')
    out.append(
        f'<text x="{_SIZE / 2}" y="{_SIZE - 8}" text-anchor="middle" font-size="12" fill="currentColor">{escape(across)}</text>'
    )
    out.append(
        f'<text x="12" y="{_SIZE / 2}" text-anchor="middle" font-size="12" fill="currentColor" '
        f'transform="rotate(-90 12 {_SIZE / 2})">{escape(up)}</text>'
    )
    label = escape(f"{title}: {up} over {across}", quote=True)
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg role="img" aria-label="{label}" width="{_SIZE}" '
        f'height="{_SIZE}" viewBox="0 0 {_SIZE} {_SIZE}">{"".join(out)}</svg></figure>'
    )


def _fairness(evidence: Sequence[Evidence]) -> str:
    found = [e for e in evidence if e.check.startswith("fairness(") and e.group and e.details.get("value") is not None]
    if not found:
        return ""
    rows = "".join(
        f"<tr><td>{escape(e.check)}</td><td>{escape(str(e.group))}</td><td>{_number(e.details['value'])}</td>"
        f"<td>{_number(e.details['gap'])}</td><td>[{_number(e.details['gap_low'])}, {_number(e.details['gap_high'])}]</td><td>{e.n}</td></tr>"
        for e in found
    )
    head = "".join(f"<th>{h}</th>" for h in ("check", "group", "value", "gap to the whole", "interval", "n"))
    return f"<h2>Groups</h2><table><tr>{head}</tr>{rows}</table>"


def _inputs(package: Package) -> str:
    rows = "".join(
        f"<tr><td>{escape(f.name)}</td><td>{escape(f.dtype)}</td><td>{_number(f.low)}</td><td>{_number(f.high)}</td></tr>"
        for f in package.inputs
    )
    return f"<h2>Inputs</h2><table><tr><th>name</th><th>type</th><th>lowest seen</th><th>highest seen</th></tr>{rows}</table>"


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
