"""What happened, for people: a summary in text and one self-contained HTML page with its plots drawn as SVG."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from world import DAY, month_start

from holdfast.core.identity import from_us, iso

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
COLOURS = {"the loop": "#0b6e4f", "never retrained": "#9a9a9a", "monthly refits": "#2f6fb3", "naive rule": "#c8553d"}
MARGIN = 0.005  # of mean monthly AUC: what fewer trainings may cost


def collect(
    ws: Any, service: str, *, arms: dict[str, Any], faults: list[Any], verified: Any, start: int, end: int
) -> dict[str, Any]:
    """Everything the summary and the page show, from the ledger, the prediction log and the labels."""
    from holdfast.lifecycle import loop, release
    from holdfast.monitoring import report as reports
    from holdfast.monitoring import windows
    from holdfast.monitoring.labels import LabelStore
    from holdfast.serving import journal

    log = journal.read(ws.home / "predictions" / service, since=start, until=end)
    joined = windows.join(log, LabelStore(ws.home / "labels" / service).read())
    due = joined["request_time"].to_numpy()
    score = joined["score"].to_numpy(zero_copy_only=False)
    label = joined["label"].cast("float64").to_numpy(zero_copy_only=False)
    months = [m for m in range(3, 13) if month_start(m) < end]
    ours, interval = loop_auc(due, score, label, months, end)
    cycles = loop.cycles(ws.ledger, service)
    retrained = [c for c in cycles if c.order.trigger != "manual" and c.training_seconds]
    all_arms = {
        "the loop": {
            "auc": ours, "retrainings": len(retrained), "training_minutes": sum(c.training_seconds for c in retrained) / 60,
            "note": "forest and boosting candidates, through gate and canary, as served",
        },
        **arms,
    }  # fmt: skip
    feature_rows = verified.get("features", verified) if isinstance(verified, dict) else verified
    unequal = {row["feature"]: int(row.get("unequal", 0)) for row in feature_rows}
    drift = [
        {
            "at": r.end,
            "kind": r.kind,
            "outcome": r.outcome,
            "signals": [(s.name, s.value, s.alarm) for s in r.signals if s.value is not None],
        }
        for r in reports.recent(ws.ledger, service)
    ]
    example = joined["id"][joined.num_rows // 2].as_py()
    return {
        "service": service, "start": start, "end": end, "arms": all_arms, "gap": gap(all_arms, due, score, label, months, end, interval),
        "cycles": [
            {"id": c.id, "at": c.started, "ended": c.ended, "trigger": c.order.trigger, "reason": c.order.reason, "status": c.status,
             "version": c.version, "why": c.reason, "seconds": c.training_seconds} for c in cycles
        ],
        "releases": [
            {"at": r.at, "champion": r.champion.version if r.champion else None, "challenger": r.challenger.version if r.challenger else None,
             "weight": r.challenger.weight if r.challenger else 0.0} for r in release.history(ws.ledger, service)
        ],
        "traffic": traffic(joined, end), "faults": faults, "drift": drift, "unequal": unequal, "verified": feature_rows,
        "predictions": joined.num_rows, "labelled": int(np.sum(~np.isnan(label))), "example": example,
    }  # fmt: skip


def loop_auc(due: Any, score: Any, label: Any, months: list[int], end: int) -> tuple[dict[str, float], list[float]]:
    """AUC of what was served, by month, and a 95 % bootstrap interval of its mean over months."""
    from holdfast.stats import metrics

    rng = np.random.default_rng(0)
    by_month, resampled = {}, []
    for month in months:
        rows = np.flatnonzero(
            (due >= month_start(month)) & (due < min(month_start(month + 1), end)) & ~np.isnan(label) & ~np.isnan(score)
        )
        by_month[str(month)] = float(metrics.compute("roc_auc", label[rows], score[rows]))
        again = [rng.choice(rows, len(rows)) for _ in range(60)]
        resampled.append([float(metrics.compute("roc_auc", label[r], score[r])) for r in again])
    means = np.mean(np.array(resampled), axis=0)
    return by_month, [float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))]


def gap(
    arms: dict[str, Any], due: Any, score: Any, label: Any, months: list[int], end: int, interval: list[float]
) -> dict[str, Any]:
    """The loop's mean monthly AUC against monthly refits; it keeps up where it is not lower by more than MARGIN."""
    mine = float(np.mean(list(arms["the loop"]["auc"].values())))
    out: dict[str, Any] = {"loop": mine, "interval": interval}
    if "monthly refits" in arms:
        theirs = float(np.mean(list(arms["monthly refits"]["auc"].values())))
        out |= {"monthly": theirs, "difference": mine - theirs, "keeps_up": mine - theirs >= -MARGIN}
    return out


def against_monthly(result: dict[str, Any]) -> str:
    """The sentence that compares the loop with monthly refits, with both costs."""
    g, ours, theirs = result["gap"], result["arms"]["the loop"], result["arms"]["monthly refits"]
    word = f"within {MARGIN} of" if g["keeps_up"] else f"lower by more than {MARGIN} than"
    return (
        f"The loop is {word} monthly refits: mean AUC {g['loop']:.4f} (95 % interval {g['interval'][0]:.4f} to {g['interval'][1]:.4f}) "
        f"against {g['monthly']:.4f}, with {ours['retrainings']} retrainings against {theirs['retrainings']}."
    )


def traffic(joined: Any, end: int) -> list[dict[str, Any]]:
    """Answers a day by version."""
    day = (joined["request_time"].to_numpy() // DAY).astype(int)
    version = joined["version"].to_numpy()
    out = []
    for one in np.unique(day):
        versions, counts = np.unique(version[day == one], return_counts=True)
        out.append(
            {
                "at": int(one) * DAY,
                "share": {int(v): float(c / counts.sum()) for v, c in zip(versions, counts, strict=True)},
            }
        )
    return out


# --- text -------------------------------------------------------------------------------------------------------------


def text(result: dict[str, Any]) -> str:
    """The summary that ends the demo."""
    months = list(result["arms"]["the loop"]["auc"])
    width = max(len(name) for name in result["arms"])
    head = "AUC by month".ljust(width) + "".join(f"{MONTHS[int(m) - 1]:>7}" for m in months)
    lines = ["", head + "    mean  retrainings  minutes"]
    for name, arm in result["arms"].items():
        values = [arm["auc"][m] for m in months]
        figures = "".join(f"{v:7.3f}" for v in values)
        lines.append(
            f"{name.ljust(width)}{figures}{np.mean(values):8.4f}{arm['retrainings']:13d}{arm['training_minutes']:9.1f}"
        )
    if "monthly" in result["gap"]:
        lines.append("\n" + against_monthly(result))
    lines.append("\nCycles")
    for c in result["cycles"]:
        lines.append(
            f"  {iso(c['at'])[:10]}  {c['trigger']:<12} @{c['version'] or '–'}  {c['status']:<12} {c['reason'][:70]}  →  {c['why'][:80]}"
        )
    lines.append("\nPlanted faults")
    for fault in sorted(result["faults"], key=lambda f: f["at"]):
        lines.append(f"  {iso(fault['at'])[:10]}  {fault['fault']:<20} {fault['handled']}")
    bad = sum(result["unequal"].values())
    lines.append(
        f"\n{result['predictions']:,} predictions served ({result['labelled']:,} labelled), {result['requests']['sent']:,} requests, "
        f"{len(result['requests']['failed'])} failed; features recomputed offline: {bad} unequal; {result['audit']}; {result['seconds']:.0f} s in all"
    )
    return "\n".join(lines)


# --- page -------------------------------------------------------------------------------------------------------------


def render(result: dict[str, Any]) -> str:
    """One HTML page that needs nothing else."""
    esc = html.escape
    verdict = f"<p>{esc(against_monthly(result))}</p>" if "monthly" in result["gap"] else ""
    cycles = "".join(
        f"<tr><td>{iso(c['at'])[:10]}</td><td>{esc(c['trigger'])}</td><td>{esc(c['reason'])}</td><td>{c['version'] or '–'}</td>"
        f"<td class='{esc(c['status']).replace(' ', '-')}'>{esc(c['status'])}</td><td>{esc(c['why'])}</td></tr>"
        for c in result["cycles"]
    )
    faults = "".join(
        f"<tr><td>{iso(f['at'])[:10]}</td><td>{esc(f['fault'])}</td><td>{esc(f['handled'])}</td></tr>"
        for f in result["faults"]
    )
    arms = "".join(
        f"<tr><td>{esc(name)}</td><td>{np.mean(list(a['auc'].values())):.4f}</td><td>{a['retrainings']}</td><td>{a['training_minutes']:.1f}</td><td>{esc(a['note'])}</td></tr>"
        for name, a in result["arms"].items()
    )
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Holdfast: a year of flights</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body{{font:16px/1.5 system-ui,sans-serif;color:#1c2321;background:#fbfaf7;max-width:60rem;margin:2rem auto;padding:0 1rem}}
h1{{font-size:1.9rem;margin-bottom:.2rem}} h2{{margin-top:2.4rem;font-size:1.25rem}} p.lead{{color:#5b6660;margin-top:0}}
svg{{width:100%;height:auto;background:#fff;border:1px solid #e4e1d8;border-radius:8px}} svg text{{font:12px system-ui,sans-serif;fill:#5b6660}}
table{{border-collapse:collapse;width:100%;font-size:.88rem}} td,th{{text-align:left;padding:.3rem .5rem;border-bottom:1px solid #e4e1d8;vertical-align:top}}
.promoted{{color:#0b6e4f;font-weight:600}} .rejected,.rolled-back,.failed,.blocked{{color:#b3402a;font-weight:600}}
.figures{{display:flex;gap:2rem;flex-wrap:wrap}} .figures b{{display:block;font-size:1.5rem}}
</style></head><body>
<h1>A year of flights, kept true</h1>
<p class="lead">Will a flight out of New York arrive more than 15 minutes late? {result["predictions"]:,} questions, {iso(result["start"])[:10]} to {iso(result["end"])[:10]}.</p>
<div class="figures"><span><b>{result["predictions"]:,}</b>predictions</span><span><b>{len(result["requests"]["failed"])}</b>failed requests</span>
<span><b>{sum(result["unequal"].values())}</b>features unequal offline</span><span><b>{result["arms"]["the loop"]["retrainings"]}</b>retrainings</span></div>
<h2>AUC by month</h2>{auc_plot(result)}{verdict}
<table><tr><th>arm</th><th>mean AUC</th><th>retrainings</th><th>training minutes</th><th></th></tr>{arms}</table>
<h2>Traffic share by version</h2><p>Each canary takes its share before it takes the rest, or gives it back.</p>{traffic_plot(result)}
<h2>Drift by feature</h2><p>Distance of each week from the live version's training data; a dot is an alarm.</p>{drift_plot(result)}
<h2>Timeline of cycles</h2>{timeline(result)}
<table><tr><th>day</th><th>trigger</th><th>reason</th><th>version</th><th>ended</th><th>why</th></tr>{cycles}</table>
<h2>Planted faults</h2><table><tr><th>day</th><th>fault</th><th>what happened</th></tr>{faults}</table>
<script type="application/json" id="data">{json.dumps({k: result[k] for k in ("arms", "cycles", "faults", "gap")}, default=str).replace("<", chr(92) + "u003c")}</script>
</body></html>"""


W, H, LEFT, BOTTOM, TOP = 900, 320, 52, 34, 14


def _x(result: dict[str, Any], at: float) -> float:
    return LEFT + (W - LEFT - 150) * (at - result["start"]) / max(result["end"] - result["start"], 1)


def _month_axis(result: dict[str, Any], height: int = H) -> str:
    out = []
    for month in range(3, 13):
        if month_start(month) < result["end"]:
            x = _x(result, month_start(month))
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}" stroke="#eeece5"/>')
            out.append(f'<text x="{x + 4:.1f}" y="{height - 12}">{MONTHS[month - 1]}</text>')
    return "".join(out)


def auc_plot(result: dict[str, Any]) -> str:
    values = [v for a in result["arms"].values() for v in a["auc"].values()]
    lo, hi = min(values) - 0.01, max(values) + 0.01

    def y(value: float) -> float:
        return TOP + (H - TOP - BOTTOM) * (hi - value) / (hi - lo)

    out = [_month_axis(result)]
    for level in np.arange(np.ceil(lo * 50) / 50, hi, 0.02):
        out.append(
            f'<text x="8" y="{y(level) + 4:.1f}">{level:.2f}</text><line x1="{LEFT}" x2="{W - 150}" y1="{y(level):.1f}" y2="{y(level):.1f}" stroke="#eeece5"/>'
        )
    for row, (name, arm) in enumerate(result["arms"].items()):
        points = [
            (_x(result, (month_start(int(m)) + min(month_start(int(m) + 1), result["end"])) / 2), y(v))
            for m, v in arm["auc"].items()
        ]
        colour, wide = COLOURS[name], 3 if name == "the loop" else 1.6
        out.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="{wide}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'
        )
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{wide + 1}" fill="{colour}"/>' for a, b in points]
        out.append(
            f'<text x="{W - 140}" y="{TOP + 20 + 20 * row}" style="fill:{colour};font-weight:600">{html.escape(name)}</text>'
        )
    return _svg("auc", out, H)


def traffic_plot(result: dict[str, Any]) -> str:
    days = result["traffic"]
    versions = sorted({v for d in days for v in d["share"]})
    palette = ["#0b6e4f", "#2f6fb3", "#e0a030", "#8a5fa8", "#c8553d", "#4aa3a2", "#7a8b3c", "#b06a8c", "#555"]
    height = 220
    out = [_month_axis(result, height)]
    wide = max(_x(result, result["start"] + DAY) - _x(result, result["start"]), 0.8)
    for d in days:
        y = float(TOP)
        for v in versions:
            share = d["share"].get(v, d["share"].get(str(v), 0.0))
            tall = (height - TOP - BOTTOM) * share
            if share:
                out.append(
                    f'<rect x="{_x(result, d["at"]):.1f}" y="{y:.1f}" width="{wide + 0.2:.2f}" height="{tall:.1f}" fill="{palette[versions.index(v) % len(palette)]}"/>'
                )
            y += tall
    for row, v in enumerate(versions):
        out.append(
            f'<text x="{W - 140}" y="{TOP + 16 + 18 * row}" style="fill:{palette[row % len(palette)]};font-weight:600">@{v}</text>'
        )
    return _svg("traffic", out, height)


def drift_plot(result: dict[str, Any]) -> str:
    rows = [r for r in result["drift"] if r["kind"] == "drift"]
    names = sorted(
        {n for r in rows for n, _, _ in r["signals"]},
        key=lambda n: -sum(a for r in rows for m, _, a in r["signals"] if m == n),
    )[:16]
    height = TOP + BOTTOM + 18 * max(len(names), 1)
    out = [_month_axis(result, height)]
    wide = max(_x(result, result["start"] + DAY) - _x(result, result["start"]), 0.8)
    top = max((abs(v) for r in rows for n, v, _ in r["signals"] if n in names), default=1.0) or 1.0
    for row, name in enumerate(names):
        y = TOP + 18 * row
        out.append(f'<text x="{W - 146}" y="{y + 13}" style="font-size:10px">{html.escape(name[:26])}</text>')
        for r in rows:
            found = [(v, a) for n, v, a in r["signals"] if n == name]
            if found:
                value, alarm = max(found, key=lambda f: abs(f[0]))
                x = _x(result, r["at"])
                out.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{wide + 0.2:.2f}" height="16" fill="#2f6fb3" fill-opacity="{min(abs(value) / top, 1.0) ** 0.6:.2f}"/>'
                )
                if alarm:
                    out.append(f'<circle cx="{x + wide / 2:.1f}" cy="{y + 8}" r="1.6" fill="#c8553d"/>')
    return _svg("drift", out, height)


def timeline(result: dict[str, Any]) -> str:
    height = 110
    colours = {
        "promoted": "#0b6e4f",
        "rejected": "#c8553d",
        "rolled back": "#c8553d",
        "failed": "#c8553d",
        "blocked": "#e0a030",
        "running": "#2f6fb3",
    }
    out = [_month_axis(result, height)]
    for c in result["cycles"]:
        x0, x1 = _x(result, c["at"]), _x(result, c["ended"] or result["end"])
        out.append(
            f'<rect x="{x0:.1f}" y="30" width="{max(x1 - x0, 5):.1f}" height="18" rx="3" fill="{colours.get(c["status"], "#999")}"><title>{html.escape(c["reason"])}</title></rect>'
        )
        out.append(f'<text x="{x0:.1f}" y="24">@{c["version"] or "–"}</text>')
    for fault in result["faults"]:
        x = _x(result, fault["at"])
        out.append(
            f'<path d="M{x:.1f} 56 l5 10 h-10 z" fill="#b3402a"><title>{html.escape(fault["fault"])}</title></path>'
        )
    return _svg("timeline", out, height)


def _svg(name: str, parts: Sequence[str], height: int) -> str:
    return f'<svg id="{name}" viewBox="0 0 {W} {height}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


def day_text(at: int) -> str:
    """``12 Mar``."""
    return f"{from_us(at):%d %b}"
