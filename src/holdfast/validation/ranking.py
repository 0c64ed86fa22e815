"""Ranking: how good the lists are that the scores make, averaged over queries."""

from __future__ import annotations

import numpy as np

from holdfast.core.definitions import Rule
from holdfast.core.errors import did_you_mean
from holdfast.core.records import Evidence
from holdfast.stats import intervals
from holdfast.stats import ranking as lists
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context
from holdfast.validation.performance import clean


def ranking(context: Context, rule: Rule) -> list[Evidence]:
    """The mean over queries with Student's interval; queries without a relevant row say nothing and are left out."""
    check, by, k = naming.key(rule), str(rule.options.get("group")), rule.options.get("k")
    query = context.groups.get(by)
    if query is None or context.task == "multiclass":
        missing = (
            "ranking needs one score a row"
            if query is not None
            else f"no column {by!r} came with the rows ({did_you_mean(by, context.groups, kind='column')})"
        )
        return [Evidence(check=check, figure=None, details={"missing": missing})]
    names = np.array([str(q) for q in np.asarray(query).tolist()])
    figures, left_out = lists.per_query(str(rule.metric), context.y, context.scores, names, k=k)
    if not len(figures):
        return [Evidence(check=check, figure=None, details={"missing": "no query has a relevant row"})]
    low, high = intervals.mean(figures)
    return [
        Evidence(
            check=check, figure=float(figures.mean()), low=clean(max(low, 0.0)), high=clean(min(high, 1.0)),
            n=len(figures), how="mean over queries, Student", compared=f"{len(context.y)} rows in lists by {by}",
            details={"left_out": left_out},
        )
    ]  # fmt: skip
