"""A verdict as others read it: rows of a table, JUnit XML for CI, Markdown for a pull request."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from holdfast.core.records import RuleOutcome, Verdict

HEADERS = ["outcome", "check", "group", "figure", "interval", "n", "message"]
_BAD_XML = {c: "\ufffd" for c in range(32) if chr(c) not in "\t\n\r"}


def rows(verdict: Verdict) -> list[tuple[object, ...]]:
    """One row per result, under ``HEADERS``."""
    return [
        (
            shown(r),
            r.check,
            r.group,
            r.figure,
            interval(r),
            r.n,
            r.message + (f" (waived by {r.waived_by})" if r.waived_by else ""),
        )
        for r in verdict.results
    ]


def shown(result: RuleOutcome) -> str:
    """The outcome as shown: waived and noted results say so."""
    if result.waived_by:
        return "waived"
    return result.outcome if result.counts else "note"


def interval(result: RuleOutcome) -> str | None:
    """``[low, high]``, or None where there is none."""
    return None if result.low is None or result.high is None else f"[{result.low:.4g}, {result.high:.4g}]"


def junit(verdict: Verdict) -> str:
    """JUnit XML: a failed rule is a failure, not enough evidence an error (it holds), a waiver or a note is skipped."""
    cases, failures, errors, skipped = [], 0, 0, 0
    for r in verdict.results:
        name = quoteattr(_clean(r.check + (f" [{r.group}]" if r.group else "")))
        body = ""
        message = quoteattr(_clean(r.message))
        state = shown(r)
        if state == "fail":
            failures, body = failures + 1, f"<failure message={message}/>"
        elif state == "not enough evidence":
            errors, body = errors + 1, f'<error type="not enough evidence" message={message}/>'
        elif state in ("waived", "note"):
            reason = quoteattr(_clean(r.waived_by or r.message))
            skipped, body = skipped + 1, f"<skipped message={reason}/>"
        cases.append(
            f'    <testcase classname="gate" name={name}>{body}<system-out>{escape(_clean(r.message))}</system-out></testcase>'
        )
    suite = quoteattr(_clean(f"{verdict.model}@{verdict.version}"))
    head = f'tests="{len(cases)}" failures="{failures}" errors="{errors}" skipped="{skipped}"'
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<testsuites {head}>", f"  <testsuite name={suite} {head}>"]
    return "\n".join([*lines, *cases, "  </testsuite>", "</testsuites>", ""])


def markdown(verdict: Verdict) -> str:
    """A table for a pull request."""
    lines = [
        f"**{_cell(verdict.model)}@{verdict.version}: {verdict.outcome}**",
        "",
        "| outcome | check | figure | n | |",
        "|---|---|---|---|---|",
    ]
    for r in verdict.results:
        figure = "–" if r.figure is None else f"{r.figure:.4g} {interval(r) or ''}"
        check = r.check + (f" [{r.group}]" if r.group else "")
        message = r.message + (f" (waived by {r.waived_by})" if r.waived_by else "")
        lines.append(f"| {shown(r)} | {_cell(check)} | {figure} | {r.n} | {_cell(message)} |")
    return "\n".join([*lines, ""])


def _clean(text: str) -> str:
    return text.translate(_BAD_XML)


def _cell(text: str) -> str:
    return escape(text).replace("|", "\\|").replace("\n", " ")
