"""Stages of dvc.yaml: what changed, told as dvc tells it; run in order; two files with stages of one name."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.data.conftest import clean, content, fill, run

from holdfast.core.errors import BadInput, Conflict, NotFound, UsersTurn
from holdfast.data import checkout, repro, stages, status, transfer
from holdfast.data.repository import Repository

STAGES = """\
stages:
  first:
    cmd: cat in.txt > mid.txt && mkdir -p many && cp in.txt many/a
    deps: [in.txt]
    params: [rate, model.depth, other.json: [x]]
    outs: [mid.txt, many]
  last:
    cmd: wc -c < mid.txt > size.txt
    deps: [mid.txt]
    metrics:
    - size.txt: {cache: false}
  held:
    frozen: true
    cmd: cp in.txt held.txt
    deps: [in.txt]
    outs: [held.txt]
  each:
    matrix: {k: [a, 1]}
    cmd: cp mid.txt ${item.k}.out
    deps: [mid.txt]
    outs: ["${item.k}.out"]
"""


def project(repo: Repository, *, frozen: bool = False) -> None:
    fill(
        repo.root,
        {
            "dvc.yaml": (STAGES if frozen else STAGES.replace("    frozen: true\n", "")).encode(),
            "in.txt": b"in",
            "params.yaml": b"rate: 0.10\nmodel: {depth: 3}\nunused: 1\n",
            "other.json": b'{"x": [1, 2]}',
            "sub/dvc.yaml": b"stages:\n  first:\n    cmd: cp ../many/a here.txt\n    deps: [../many/a]\n    outs: [here.txt]\n",
        },
    )


def rewrite(repo: Repository, name: str, old: str, new: str) -> None:
    file = repo.root / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


CHANGES: dict[str, Callable[[Repository], object]] = {
    "nothing": lambda repo: (repo.root / "in.txt").touch(),
    "a dependency": lambda repo: (repo.root / "in.txt").write_text("other"),
    "a dependency is gone": lambda repo: (repo.root / "in.txt").unlink(),
    "parameters": lambda repo: rewrite(repo, "params.yaml", "depth: 3", "depth: 4"),
    "a number written otherwise": lambda repo: rewrite(repo, "params.yaml", "0.10", "0.1"),
    "an unlisted parameter": lambda repo: rewrite(repo, "params.yaml", "unused: 1", "unused: 2"),
    "a parameter is gone": lambda repo: rewrite(repo, "params.yaml", "rate: 0.10\n", ""),
    "a parameters file is gone": lambda repo: (repo.root / "other.json").unlink(),
    "an out": lambda repo: (repo.root / "many" / "a").write_text("x"),
    "outs are gone": lambda repo: [(repo.root / "mid.txt").unlink(), shutil.rmtree(repo.root / "many")],
    "the cache is gone": lambda repo: shutil.rmtree(repo.cache),
    "the command": lambda repo: rewrite(repo, "dvc.yaml", "wc -c < mid", "wc  -c < mid"),
    "a listed parameter more": lambda repo: rewrite(repo, "dvc.yaml", "[rate, ", "[rate, unused, "),
    "the lock is gone": lambda repo: (repo.root / "dvc.lock").unlink(),
}
FEW = ("parameters",)


@pytest.mark.peer
@pytest.mark.parametrize("case", [c if c in FEW else pytest.param(c, marks=pytest.mark.soak) for c in CHANGES])
def test_what_changed_is_what_dvc_says(dvc: str, repo: Repository, case: str) -> None:
    project(repo)
    repro.repro(repo)
    project(repo, frozen=True)
    clean(dvc, repo)
    CHANGES[case](repo)
    theirs = json.loads(run(dvc, repo, "status", "--json"))
    assert repro.status(repo) == theirs


@pytest.mark.peer
@pytest.mark.soak
def test_dvc_restores_what_we_ran_and_we_what_dvc_ran(dvc: str, repo: Repository) -> None:
    project(repo)
    repro.repro(repo)
    lock, made = (repo.root / "dvc.lock").read_bytes(), content(repo.root)
    transfer.push(repo)
    rewrite(repo, "params.yaml", "depth: 3", "depth: 5")
    (repo.root / "in.txt").write_text("other")
    run(dvc, repo, "repro", "-q", "-P")
    theirs = (repo.root / "dvc.lock").read_bytes()
    assert theirs != lock and repro.repro(repo) == []
    project(repo)  # back: each finds the other's run and does not run the command again
    said: list[str] = []
    repro.repro(repo, say=said.append)
    assert any("restored" in line for line in said) and (repo.root / "dvc.lock").read_bytes() == lock
    assert content(repo.root)["mid.txt"] == made["mid.txt"]
    rewrite(repo, "params.yaml", "depth: 3", "depth: 5")
    (repo.root / "in.txt").write_text("other")
    told = run(dvc, repo, "repro", "-P")
    assert "cached" in told and (repo.root / "dvc.lock").read_bytes() == theirs


def test_two_files_with_stages_of_one_name(repo: Repository) -> None:
    project(repo)
    found = [stage for file in stages.files(repo) for stage in stages.load(file, repo.root)]
    names = [stage.address for stage in repro.order(found)]
    assert set(names) == {"first", "last", "held", "each@a", "each@1", "sub/dvc.yaml:first"}
    assert names.index("first") < names.index("sub/dvc.yaml:first")
    assert repro.graph(found)["sub/dvc.yaml:first"] == ["first"]
    assert repro.repro(repo, ["sub/dvc.yaml:first"]) == ["first", "sub/dvc.yaml:first"]
    assert (repo.root / "sub" / "here.txt").read_text() == "in"
    staged, rest = status.stages_of(repo, [Path("sub/dvc.yaml:first"), Path("x")])
    assert staged == {} and rest == [Path("x")]


def test_a_command_may_itself_use_the_repository(repo: Repository) -> None:
    script = (
        "from pathlib import Path\nfrom holdfast.data import repository\n"
        "with repository.open_at(Path.cwd()).lock(): Path('o').write_text('done')\n"
    )

    fill(repo.root, {"s.py": script.encode()})
    fill(repo.root, {"dvc.yaml": f"stages:\n  s:\n    cmd: {sys.executable} s.py\n    outs: [o]\n".encode()})
    assert repro.repro(repo) == ["s"]
    assert (repo.root / "o").read_text() == "done"


def test_stage_outs_are_pushed_and_come_back(repo: Repository) -> None:
    project(repo)
    repro.repro(repo)
    before = content(repo.root)
    transfer.push(repo)
    shutil.rmtree(repo.cache)
    shutil.rmtree(repo.root / "many")
    (repo.root / "mid.txt").unlink()
    transfer.fetch(repo)
    checkout.checkout(repo, [repo.root / "many"])
    assert (repo.root / "many" / "a").exists() and not (repo.root / "mid.txt").exists()
    checkout.checkout(repo)
    assert {k: v for k, v in content(repo.root).items() if ".dvc/" not in k} == {
        k: v for k, v in before.items() if ".dvc/" not in k
    }


BROKEN = {
    "no command": ("stages:\n  s: {outs: [x]}\n", "no cmd"),
    "a circle": ("stages:\n  s: {cmd: x, deps: [a], outs: [b]}\n  t: {cmd: x, deps: [b], outs: [a]}\n", "circle"),
    "two writers": ("stages:\n  s: {cmd: x, outs: [a]}\n  t: {cmd: y, outs: [a]}\n", "both write"),
    "an out outside": ("stages:\n  s: {cmd: x, outs: [../a]}\n", "not a place inside"),
    "a reference to nothing": ("stages:\n  s: {cmd: 'echo ${nope}', outs: [a]}\n", "names nothing"),
    "not a mapping": ("stages: [1]\n", "not a mapping"),
    "a bomb": ("a: &a [x,x]\nb: &b [*a,*a]\n" + "stages: " + "[" * 100 + "]" * 100 + "\n", "nested"),
    "not a list": ("stages:\n  s: {cmd: x, deps: 5}\n", "deps"),
    "odd out": ("stages:\n  s: {cmd: x, outs: [{a: 5}]}\n", "outs"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_stage_file_that_cannot_be_used_is_named(repo: Repository, case: str) -> None:
    text, words = BROKEN[case]
    fill(repo.root, {"dvc.yaml": text.encode()})
    with pytest.raises(BadInput, match=words):
        repro.repro(repo)


def test_what_cannot_run_says_why(repo: Repository) -> None:
    fill(repo.root, {"dvc.yaml": b"stages:\n  s: {cmd: 'exit 3', outs: [a]}\n  t: {cmd: 'true', outs: [b]}\n"})
    with pytest.raises(UsersTurn, match="status 3"):
        repro.repro(repo, ["s"])
    with pytest.raises(UsersTurn, match="did not write b"):
        repro.repro(repo, ["t"])
    with pytest.raises(NotFound, match="'u'"):
        repro.repro(repo, ["u"])
    fill(repo.root, {"dvc.yaml": b"stages:\n  s: {cmd: 'true', deps: [gone], outs: [a]}\n"})
    with pytest.raises(NotFound, match="gone"):
        repro.repro(repo)
    from holdfast.data import snapshot

    fill(repo.root, {"a": b"a"})
    with pytest.raises(Conflict, match="stage 's' writes a"):
        snapshot.add(repo.root, Path("a"))


def test_the_command_runs_the_stages_of_the_folder_it_is_called_in(repo: Repository) -> None:
    project(repo)
    found = [stage for file in stages.files(repo) for stage in stages.load(file, repo.root)]
    top = ["first", "last", "held", "each@a", "each@1"]
    assert repro.named_from(repo, repo.root, found, []) == top
    assert repro.named_from(repo, repo.root / "sub", found, []) == ["sub/dvc.yaml:first"]
    assert repro.named_from(repo, repo.root / "sub", found, ["first"]) == ["sub/dvc.yaml:first"]
    assert repro.named_from(repo, repo.root, found, ["sub/dvc.yaml", "each"]) == ["sub/dvc.yaml:first", "each"]


NAMES = """\
vars:
- given: [a, true, 1.5]
- truth: true
stages:
  late: {cmd: x, deps: [made], outs: [late]}
  alone: {cmd: x, outs: [alone]}
  refer: {foreach: "${given}", do: {cmd: "echo ${item}"}}
  here: {foreach: [a, true, "${truth}", a], do: {cmd: "echo ${item}"}}
  mixed: {foreach: [1, {k: 2}, z], do: {cmd: x}}
  keyed: {foreach: {true: 1}, do: {cmd: "echo ${key}"}}
  grid: {matrix: {p: [true, "${truth}"], q: "${given}"}, cmd: x}
  early: {cmd: x, outs: [made]}
"""


def test_names_and_order_are_dvcs(repo: Repository) -> None:
    """A boolean keeps its YAML word only where it stands in the file; stages go depth first in the file's order."""
    fill(repo.root, {"dvc.yaml": NAMES.encode()})
    found = stages.load(repo.root / "dvc.yaml", repo.root)
    grid = [f"grid@{p}-{q}" for p in ("true", "True") for q in ("a", "True", "1.5")]
    assert [stage.name for stage in repro.order(found)] == [
        "early", "late", "alone", "refer@a", "refer@True", "refer@1.5", "here@a", "here@true", "here@True",
        "mixed@0", "mixed@1", "mixed@2", "keyed@true", *grid,
    ]  # fmt: skip
    said = {stage.name: stage.cmd for stage in found}
    assert said["refer@True"] == said["here@True"] == said["keyed@true"] == "echo true"


def test_a_frozen_stage_whose_out_is_gone_is_told(repo: Repository) -> None:
    project(repo, frozen=True)
    with pytest.raises(NotFound, match=r"'held' is frozen, and held\.txt does not exist"):
        repro.repro(repo, ["held"])


def test_what_lies_outside_is_named_as_it_is_written(repo: Repository, tmp_path: Path) -> None:
    far = tmp_path / "far.txt"
    spec = f"stages:\n  s:\n    cmd: x\n    wdir: sub\n    deps: [{far}, ../../far.txt, ../in, {repo.root}/here]\n"
    fill(repo.root, {"dvc.yaml": spec.encode()})
    (found,) = repro.status(repo)["s"]
    assert set(found["changed deps"]) == {str(far), "../../far.txt", "in", "here"}


@pytest.mark.parametrize("name", ["dvc.lock", "dvc.yaml", "in.txt.dvc"])
def test_a_merge_conflict_is_called_so(repo: Repository, name: str) -> None:
    project(repo)
    (repo.root / name).write_text("<<<<<<< HEAD\nouts:\n=======\nouts: []\n>>>>>>> other\n")
    asked = status.outs if name.endswith(".txt.dvc") else repro.status
    with pytest.raises(BadInput) as told:
        asked(repo)
    assert "merge conflict" in str(told.value.hint) and name in told.value.message
