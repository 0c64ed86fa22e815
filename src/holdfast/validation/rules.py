"""How a rule is called in evidence, verdicts, waivers and reports, and how its demand reads."""

from __future__ import annotations

from holdfast.core.definitions import Rule
from holdfast.core.gates import digest_of as digest_of
from holdfast.stats import metrics


def key(rule: Rule) -> str:
    """The name under which a rule finds its evidence: ``accuracy``, ``fairness(accuracy by origin)``, ``latency``…"""
    match rule.check:
        case "performance":
            return str(rule.metric)
        case "fairness" | "four_fifths":
            return f"{rule.check}({rule.metric or 'selection_rate'} by {rule.options.get('group')})"
        case "equalised_odds":
            return f"equalised_odds(by {rule.options.get('group')})"
        case "ranking":
            at = f"@{rule.options['k']}" if rule.options.get("k") else ""
            return f"{rule.metric}{at}(by {rule.options.get('group')})"
        case "champion":
            return f"champion({rule.metric})"
        case "baseline":
            return f"baseline({rule.metric} over {rule.options.get('baseline', 'constant')})"
        case "custom":
            return f"custom({rule.metric})"
        case "slices" | "live":
            return f"{rule.check}({rule.metric})"
        case _:
            return rule.check if rule.metric is None else f"{rule.check}({rule.metric})"


def demand(rule: Rule, group: str | None = None) -> str:
    """What the rule asks for, as people read it: ``≥ 0.9``."""
    parts = []
    if rule.minimum is not None:
        parts.append(f"≥ {rule.minimum:g}")
    if rule.maximum is not None:
        parts.append(f"≤ {rule.maximum:g}")
    parts += [f"{name} ≤ {rule.options[name]:g}" for name in bounded_parts(rule) if group in (None, name)]
    return " and ".join(parts)


def higher_is_better(rule: Rule) -> bool:
    """Whether more of the rule's metric is better; true for metrics of the user's own."""
    return metrics.HIGHER_IS_BETTER.get(rule.metric or "", True)


def bounded_parts(rule: Rule) -> list[str]:
    """The named parts of a rule's evidence that have a bound of their own: ``p99``, ``size``."""
    if rule.check not in ("latency", "resources"):
        return []
    return [name for name, bound in rule.options.items() if isinstance(bound, int | float)]
