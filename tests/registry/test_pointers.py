"""Approvals: what may move to Production or under a protected alias, and what readers see meanwhile."""

import threading

import pytest

from holdfast.core.errors import BadInput, Conflict, NotApproved, NotFound
from holdfast.core.ports import Ledger
from holdfast.core.records import ModelVersion, RuleOutcome, Verdict, Waiver
from holdfast.registry import approval, history, pointers, versions, waivers

NAME = "fraud"


def make(ledger: Ledger, content: str = "c1", name: str = NAME) -> ModelVersion:
    return versions.create(ledger, name, content=content, run_id="r", at=1, actor="ann")


def judge(ledger: Ledger, version: ModelVersion, outcome: str = "pass", at: int = 2) -> None:
    results = [RuleOutcome(check="accuracy", outcome=outcome, message="")]  # type: ignore[arg-type]
    verdict = Verdict(
        model=version.name, version=version.version, content=version.content, outcome=outcome,  # type: ignore[arg-type]
        results=results, rules="r", evidence="e", at=at,
    )  # fmt: skip
    versions.attach_verdict(ledger, verdict, at=at, actor="gate")


def stage(ledger: Ledger, version: int, to: str, policy: str = "enforce", **more: object) -> ModelVersion:
    return pointers.move_stage(ledger, NAME, version, to, policy=policy, at=3, actor="bob", **more)  # type: ignore[arg-type]


def test_production_needs_a_verdict_and_says_what_is_missing(ledger: Ledger) -> None:
    make(ledger)
    stage(ledger, 1, "Staging")
    with pytest.raises(NotApproved) as caught:
        stage(ledger, 1, "production")
    assert "no verdict" in caught.value.message and "holdfast check fraud@1" in (caught.value.hint or "")
    assert versions.get(ledger, NAME, 1).stage == "Staging"


@pytest.mark.parametrize("outcome", ["fail", "not enough evidence"])
def test_only_a_pass_approves(ledger: Ledger, outcome: str) -> None:
    judge(ledger, make(ledger), outcome)
    with pytest.raises(NotApproved, match="accuracy"):
        stage(ledger, 1, "Production")
    with pytest.raises(NotApproved):
        pointers.move_alias(ledger, NAME, "Champion", 1, policy="enforce", at=3, actor="bob")


def test_a_verdict_over_other_content_approves_nothing(ledger: Ledger) -> None:
    version = make(ledger)
    other = ModelVersion(name=NAME, version=1, content="other", run_id=None)
    with pytest.raises(Conflict, match="content"):
        judge(ledger, other)
    judge(ledger, version)
    # Bytes swapped under the same number (a damaged or edited store): the stored verdict no longer counts.
    with ledger.transaction() as tx:
        row = tx.get("versions", versions.key(NAME, 1))
        assert row is not None
        tx.put("versions", versions.key(NAME, 1), {**row, "content": "swapped"})
    with pytest.raises(NotApproved, match="other content"):
        stage(ledger, 1, "Production")


def test_a_pass_opens_the_door_and_a_later_fail_shuts_it(ledger: Ledger) -> None:
    version = make(ledger)
    judge(ledger, version)
    assert stage(ledger, 1, "Production").stage == "Production"
    stage(ledger, 1, "Archived")
    judge(ledger, version, "fail")
    with pytest.raises(NotApproved):
        stage(ledger, 1, "Production")


def test_off_and_warn_let_pass_and_the_ledger_says_so(ledger: Ledger) -> None:
    make(ledger)
    stage(ledger, 1, "Production", policy="off")
    stage(ledger, 1, "Staging", policy="warn")
    stage(ledger, 1, "Production", policy="warn")
    moves = ledger.query(kind="model.stage", subject=NAME)
    assert [(e.body["policy"], e.body["after"], e.body["approved"]) for e in moves] == [
        ("off", "Production", False),
        ("warn", "Staging", True),
        ("warn", "Production", False),
    ]


def test_the_swap_archives_in_the_same_moment(ledger: Ledger) -> None:
    for content in ("a", "b"):
        judge(ledger, make(ledger, content))
    stage(ledger, 1, "Production")
    with pytest.raises(Conflict, match="archive_existing_versions=True"):
        stage(ledger, 2, "Production", archive_existing=False)
    stage(ledger, 2, "Production")
    assert [v.stage for v in versions.list(ledger, NAME)] == ["Archived", "Production"]


def test_readers_never_see_none_or_two_in_production(ledger: Ledger) -> None:
    for content in ("a", "b"):
        judge(ledger, make(ledger, content))
    stage(ledger, 1, "Production")
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(sum(v.stage == "Production" for v in versions.list(ledger, NAME)))

    reader = threading.Thread(target=watch)
    reader.start()
    for turn in range(30):
        stage(ledger, turn % 2 + 1, "Production")
    done.set()
    reader.join()
    assert seen == {1}


def test_an_alias_cannot_pose_as_a_stage_or_a_number(ledger: Ledger) -> None:
    make(ledger)
    for alias in ("Production", "staging", "latest", "7", "v7", "a/b", "", "a b", "x" * 256):
        with pytest.raises(BadInput):
            pointers.move_alias(ledger, NAME, alias, 1, policy="off", at=3, actor="bob")


def test_an_alias_moves_and_goes(ledger: Ledger) -> None:
    make(ledger, "a")
    make(ledger, "b")
    pointers.move_alias(ledger, NAME, "canary", 1, policy="enforce", at=3, actor="bob")
    pointers.move_alias(ledger, NAME, "canary", 2, policy="enforce", at=4, actor="bob")
    assert versions.resolve(ledger, "fraud@canary").version == 2
    assert [v.aliases for v in versions.list(ledger, NAME)] == [[], ["canary"]]
    pointers.move_alias(ledger, NAME, "canary", None, policy="enforce", at=5, actor="bob")
    with pytest.raises(NotFound):
        versions.resolve(ledger, "fraud@canary")


def test_a_rename_is_no_way_around_the_gate(ledger: Ledger) -> None:
    make(ledger)
    stage(ledger, 1, "Production", policy="off")
    with pytest.raises(NotApproved):
        pointers.rename(ledger, NAME, "gated", policy="enforce", at=4, actor="bob")
    pointers.rename(ledger, NAME, "free", policy="off", at=4, actor="bob")
    assert versions.get(ledger, "free", 1).stage == "Production"
    with pytest.raises(NotFound):
        versions.get_model(ledger, NAME)
    assert history.live(ledger, "free", at=10) == {"Production": [1]}
    assert history.live(ledger, NAME, at=10) == {} and history.live(ledger, NAME, at=3) == {"Production": [1]}


def test_rollback_returns_to_the_version_before(ledger: Ledger) -> None:
    for content in ("a", "b"):
        judge(ledger, make(ledger, content))
    stage(ledger, 1, "Production")
    with pytest.raises(NotFound, match="before"):
        pointers.rollback(ledger, NAME, policy="enforce", at=5, actor="bob")
    stage(ledger, 2, "Production")
    assert pointers.rollback(ledger, NAME, policy="enforce", at=5, actor="bob", reason="spike").version == 1
    assert [v.stage for v in versions.list(ledger, NAME)] == ["Production", "Archived"]
    last = history.of(ledger, NAME)[-1]
    assert (last.what, last.before, last.after) == ("stage", "Archived", "Production")
    assert (last.actor, last.reason) == ("bob", "spike")


def test_live_at_an_instant(ledger: Ledger) -> None:
    for content in ("a", "b"):
        make(ledger, content)
    pointers.move_stage(ledger, NAME, 1, "Production", policy="off", at=10, actor="bob")
    pointers.move_alias(ledger, NAME, "champion", 1, policy="off", at=11, actor="bob")
    pointers.move_stage(ledger, NAME, 2, "Production", policy="off", at=20, actor="bob")
    versions.delete(ledger, NAME, 1, at=30, actor="bob")
    assert history.live(ledger, NAME, at=9) == {}
    assert history.live(ledger, NAME, at=15) == {"Production": [1], "@champion": [1]}
    assert history.live(ledger, NAME, at=25) == {"Archived": [1], "Production": [2], "@champion": [1]}
    assert history.live(ledger, NAME, at=35) == {"Production": [2]}


def grant(ledger: Ledger, *, until: int, check: str = "accuracy") -> Waiver:
    waiver = Waiver(check=check, by="ann", reason="known", until=until, at=1, model=NAME, version=1)
    return waivers.grant(ledger, waiver, at=1)


def waived(ledger: Ledger, version: ModelVersion) -> None:
    results = [RuleOutcome(check="accuracy", outcome="fail", message="", waived_by="ann until then: known")]
    verdict = Verdict(
        model=NAME, version=version.version, content=version.content, outcome="pass", results=results, rules="r", evidence="e"
    )  # fmt: skip
    versions.attach_verdict(ledger, verdict, at=1, actor="gate")


def test_a_verdict_that_leans_on_a_waiver_lasts_as_long_as_the_waiver(ledger: Ledger) -> None:
    waived(ledger, make(ledger))
    grant(ledger, until=10)
    pointers.move_stage(ledger, NAME, 1, "Production", policy="enforce", at=9, actor="bob")
    pointers.move_stage(ledger, NAME, 1, "Archived", policy="enforce", at=9, actor="bob")
    with pytest.raises(NotApproved, match="waiver that is over"):
        pointers.move_stage(ledger, NAME, 1, "Production", policy="enforce", at=10, actor="bob")


def test_a_waiver_for_another_check_carries_nothing(ledger: Ledger) -> None:
    waived(ledger, make(ledger))
    grant(ledger, until=10, check="latency")
    with pytest.raises(NotApproved, match="waiver"):
        stage(ledger, 1, "Production")


def test_a_verdict_by_other_rules_opens_no_door_but_the_way_back(ledger: Ledger) -> None:
    for content in ("a", "b"):
        judge(ledger, make(ledger, content))
    now = approval.Terms("enforce", rules=frozenset(["r"]))
    changed = approval.Terms("enforce", rules=frozenset(["stricter"]))
    for version in (1, 2):
        pointers.move_stage(ledger, NAME, version, "Production", policy=now, at=3, actor="bob")
    pointers.move_stage(ledger, NAME, 1, "Archived", policy=changed, at=4, actor="bob")
    with pytest.raises(NotApproved, match="other rules"):
        pointers.move_stage(ledger, NAME, 1, "Production", policy=changed, at=4, actor="bob")
    # It was approved by the rules of its time: the way back stays open.
    assert pointers.rollback(ledger, NAME, policy=changed, at=5, actor="bob").version == 1


def test_what_was_never_approved_is_no_way_back(ledger: Ledger) -> None:
    for content in ("a", "b"):
        make(ledger, content)
        stage(ledger, len(versions.list(ledger, NAME)), "Production", policy="off")
    judge(ledger, versions.get(ledger, NAME, 1))
    with pytest.raises(NotApproved, match="other rules"):
        pointers.rollback(ledger, NAME, policy=approval.Terms("enforce", rules=frozenset(["g"])), at=5, actor="bob")


def test_a_decision_record_where_the_gate_asks_for_one(ledger: Ledger) -> None:
    version = make(ledger)
    judge(ledger, version)
    asked = approval.Terms("enforce", decision_record=True)
    with pytest.raises(NotApproved, match="decision record"):
        pointers.move_stage(ledger, NAME, 1, "Production", policy=asked, at=3, actor="bob")
    with ledger.transaction() as tx:
        tx.put("decisions", versions.key(NAME, 1), {"record": "x", "content": version.content, "at": 3})
    assert pointers.move_stage(ledger, NAME, 1, "Production", policy=asked, at=3, actor="bob").stage == "Production"


def test_a_rename_carries_verdict_waivers_and_record(ledger: Ledger) -> None:
    version = make(ledger)
    waived(ledger, version)
    grant(ledger, until=100)
    with ledger.transaction() as tx:
        tx.put("decisions", versions.key(NAME, 1), {"record": "x", "content": version.content, "at": 3})
    pointers.rename(ledger, NAME, "other", policy="enforce", at=4, actor="bob")
    asked = approval.Terms("enforce", frozenset(["r"]), decision_record=True)
    assert pointers.move_stage(ledger, "other", 1, "Production", policy=asked, at=5, actor="bob").stage == "Production"
