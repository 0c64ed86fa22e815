"""From challenger to champion, step by step: what comes next is a pure function of the rollout, the verdict, the time.

A step is left by ``pass`` once its bake time is over, or by ``fail`` at once. Silence (no verdict) and "not enough
evidence" hold, and after ``give_up`` they end the rollout: no data is never success.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from holdfast.core import definitions
from holdfast.core.identity import duration_text
from holdfast.core.records import Json, Outcome, Rollout

Action = Literal["hold", "advance", "promote", "rollback", "abort"]
ENDED = ("promoted", "rolled back", "aborted")


class Move(NamedTuple):
    """What to do now. ``weight`` (percent) and ``step`` hold after the move; 0 and the old step on a way back."""

    action: Action
    weight: float
    step: int
    reason: str


def plan(rollout: definitions.Rollout) -> list[Json]:
    """The steps of a declared rollout: smoke → [shadow] → canary weights → champion. ``bake`` and ``give_up`` in µs."""
    give_up = int(rollout.give_up)  # type: ignore[arg-type]
    bake = int(rollout.bake)  # type: ignore[arg-type]
    shadow = int(rollout.shadow)  # type: ignore[arg-type]
    steps: list[Json] = [{"step": "smoke", "weight": 0.0, "bake": 0, "give_up": give_up}]
    if shadow:
        steps.append({"step": "shadow", "weight": 0.0, "bake": shadow, "give_up": give_up})
    steps += [{"step": "canary", "weight": float(w), "bake": bake, "give_up": give_up} for w in rollout.canary]
    steps.append({"step": "champion", "weight": 100.0, "bake": 0, "give_up": give_up})
    return steps


def weight(rollout: Rollout) -> float:
    """The challenger's weight in percent that the rollout's present step asks for; 0 once it has ended."""
    return 0.0 if rollout.status in ENDED else _weight(rollout, rollout.step)


def next(rollout: Rollout, verdict: Outcome | None, now: int) -> Move:  # noqa: A001
    """The move that ``verdict`` over the present step calls for at ``now`` (µs). Pure."""
    here = rollout.step
    if rollout.status in ENDED:
        return Move("hold", 0.0, here, f"the rollout has ended: {rollout.status}")
    if not 0 <= here < len(rollout.plan):
        return Move("abort", 0.0, here, f"step {here} is not in a plan of {len(rollout.plan)} steps")
    step = rollout.plan[here]
    name = _name(step)
    if verdict == "fail":
        return Move("rollback", 0.0, here, f"{name} failed")
    waited = now - rollout.entered
    if verdict != "pass":
        give_up = int(step.get("give_up", 0))
        why = "no verdict yet" if verdict is None else "not enough evidence"
        if give_up and waited >= give_up:
            return Move("abort", 0.0, here, f"{name}: {why} after {duration_text(give_up)}")
        return Move("hold", _weight(rollout, here), here, f"{name}: {why}")
    left = int(step.get("bake", 0)) - waited
    if left > 0:
        return Move("hold", _weight(rollout, here), here, f"{name}: passing, {duration_text(left)} of baking left")
    following = here + 1
    if following >= len(rollout.plan) or rollout.plan[following]["step"] == "champion":
        return Move("promote", 100.0, min(following, len(rollout.plan) - 1), f"{name} passed")
    return Move("advance", _weight(rollout, following), following, f"{name} passed")


def _weight(rollout: Rollout, step: int) -> float:
    return float(rollout.plan[step].get("weight", 0.0)) if 0 <= step < len(rollout.plan) else 0.0


def _name(step: Json) -> str:
    return f"canary at {step['weight']:g} %" if step["step"] == "canary" else str(step["step"])
