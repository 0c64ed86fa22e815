"""What somebody else put into the repository or the remote: refused by name, at once, and nothing outside is touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.conftest import commit, content, fill

from holdfast.core.errors import BadInput, Conflict, Damaged, NotFound
from holdfast.data import cache as caches
from holdfast.data import (
    checkout,
    diff,
    hashing,
    history,
    manifest,
    pointers,
    remove,
    repository,
    snapshot,
    status,
    transfer,
)
from holdfast.data.repository import Repository

MD5 = "401b30e3b8b5d629635a5c613cdb7919"


def out(**fields: str) -> str:
    body = {"md5": MD5, "size": "2", "hash": "md5", "path": "x", **fields}
    return "outs:\n- " + "\n  ".join(f"{k}: {v}" for k, v in body.items()) + "\n"


TEXTS: dict[str, str | bytes] = {
    "up and out": out(path="../out"),
    "up and out later": out(path="a/../../out"),
    "absolute": out(path="/tmp/out"),
    "the root itself": out(path="."),
    "into .git": out(path=".git/hooks/pre-commit"),
    "into .dvc": out(path=".dvc/config"),
    "into an inner .git": out(path="sub/.git/config"),
    "a NUL": 'outs:\n- md5: 401b30e3b8b5d629635a5c613cdb7919\n  path: "a\\0b"\n',
    "empty path": out(path="''"),
    "a path that is a list": out(path="[x]"),
    "wdir out": "wdir: ../..\n" + out(path="x"),
    "wdir absolute": "wdir: /tmp\n" + out(path="x"),
    "a path for an md5": out(md5="../../../../etc/passwd"),
    "a short md5": out(md5="'12'"),
    "capital md5": out(md5=MD5.upper()),
    "a number for an md5": out(md5="12345678901234567890123456789012"),
    "negative size": out(size="-2"),
    "a size in words": out(size="many"),
    "an unknown key": out(run="evil"),
    "an unknown top key": "cmd: rm -rf /\n" + out(),
    "a bomb": "a: &a [x, x]\nb: &b [*a, *a, *a]\nouts: [*b, *b]\n",
    "a merge bomb": "meta: &a {k: v}\nouts:\n- <<: *a\n  path: x\n",
    "deep": "outs: " + "[" * 5000 + "]" * 5000 + "\n",
    "deep mappings": "\n".join(" " * at + "a:" for at in range(60)) + "\n",
    "a tag": "outs: !!python/object/apply:os.system ['touch pwned']\n",
    "a list": "- a\n",
    "a word": "hello\n",
    "nothing": "",
    "outs that are a word": "outs: hello\n",
    "deps that are a word": "deps: hello\n" + out(),
    "a repo without url": "deps:\n- path: x\n  repo: {}\n" + out(),
    "two documents": out() + "---\n" + out(),
    "the same out twice": out() + f"- md5: {MD5}\n  hash: md5\n  path: ./x\n",
    "an out inside another": out() + f"- md5: {MD5}\n  hash: md5\n  path: x/y\n",
    "the same key twice": "outs:\n- md5: 401b30e3b8b5d629635a5c613cdb7919\n  path: x\n  path: ../y\n",
    "not UTF-8": b"outs:\n- md5: \xff\xfe\n",
    "binary": bytes(range(256)),
    "huge": b"# " + b"x" * (5 << 20),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_hostile_pointer_is_refused_by_every_verb(repo: Repository, kind: str) -> None:
    text = TEXTS[kind]
    (repo.root / "x.dvc").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = content(repo.root.parent)
    verbs: list[Callable[[], object]] = [
        lambda: status.outs(repo), lambda: checkout.checkout(repo, force=True), lambda: transfer.fetch(repo),
        lambda: transfer.push(repo),
    ]  # fmt: skip
    for verb in verbs:
        with pytest.raises(BadInput, match=r"x\.dvc"):
            verb()
    assert content(repo.root.parent) == before


@pytest.mark.parametrize("path", ["a", "./a", "a/b"])
def test_two_pointers_to_one_place_are_refused_and_can_be_removed(repo: Repository, path: str) -> None:
    (repo.root / "one.dvc").write_text(out(path="a"))
    (repo.root / "two.dvc").write_text(out(path=path))
    with pytest.raises(BadInput, match=r"one\.dvc and .*two\.dvc both track") as caught:
        checkout.checkout(repo, force=True)
    assert "holdfast data remove two.dvc" in str(caught.value.hint)
    assert not (repo.root / "a").exists()
    remove.remove(repo, [Path("two.dvc")])
    assert [s.path for s in status.outs(repo)] == ["a"]


FILES: dict[str, Callable[[Path], Any]] = {
    "a pipe": os.mkfifo,
    "a link to nowhere": lambda p: p.symlink_to("nowhere"),
    "a link in a circle": lambda p: p.symlink_to(p.name),
    "a link to a device": lambda p: p.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("name", ["x.dvc", "dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config.local"])
def test_a_file_of_another_kind_is_refused_without_waiting(repo: Repository, kind: str, name: str) -> None:
    place = repo.root / name
    place.unlink(missing_ok=True)
    FILES[kind](place)

    def all_verbs() -> None:
        opened = repository.open_at(repo.root)
        status.outs(opened)
        status.stages_of(opened)
        (repo.root / "d").write_bytes(b"d")
        snapshot.add(repo.root, Path("d"))

    if "nowhere" in kind and name not in ("x.dvc", "dvc.yaml"):
        all_verbs()  # a file that is not there says nothing
        return
    with pytest.raises((BadInput, NotFound)) as caught:
        all_verbs()
    assert caught.value.hint


def entry(path: object, md5: object = MD5) -> dict[str, object]:
    return {"md5": md5, "relpath": path}


MANIFESTS: dict[str, Any] = {
    "up and out": [entry("../x")], "further up": [entry("a/../../x")], "absolute": [entry("/etc/x")],
    "empty": [entry("")], "an empty part": [entry("a//b")], "a dot": [entry("./a")], "into .git": [entry(".git/config")],
    "into an inner .dvc": [entry("a/.dvc/config")], "a NUL": [entry("a\0b")], "a lone surrogate": [entry("\ud800")],
    "a number": [entry(5)], "no md5": [{"relpath": "a"}], "an md5 with a path": [entry("a", "../../../../../etc/passwd")],
    "capital md5": [entry("a", MD5.upper())], "an md5 of other signs": [entry("a", "z" * 32)],
    "the same twice": [entry("a"), entry("a")], "a file and a folder": [entry("a"), entry("a/b")], "no list": {"a": 1},
    "no entries": ["a"], "nothing": None, "deep": "[" * 100_000, "no JSON": "{",
}  # fmt: skip


@pytest.mark.parametrize("kind", MANIFESTS)
@pytest.mark.parametrize("where", ["cache", "remote"])
def test_a_hostile_manifest_places_and_keeps_nothing(repo: Repository, kind: str, where: str) -> None:
    value = MANIFESTS[kind]
    data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
    name = manifest.name(data)
    store = caches.of(repo) if where == "cache" else caches.Cache(repo.root.parent / "store")
    store.put(data, name)
    store.put(b"hi", hashing.md5_of(b"hi"))
    (repo.root / "x.dvc").write_text(out(md5=name))
    before = content(repo.root.parent)
    with pytest.raises(BadInput, match="manifest"):
        transfer.pull(repo, force=True)
    assert content(repo.root.parent) == before


def test_an_object_that_is_not_what_its_name_says(repo: Repository) -> None:
    for size in (3, 3 << 20):
        fill(repo.root, {"x": os.urandom(size)})
        md5 = snapshot.add(repo.root, Path("x")).md5
        transfer.push(repo)
        place = Path(caches.Cache(repo.root.parent / "store").path(md5))
        place.chmod(0o644)
        place.write_bytes(os.urandom(size))
        shutil.rmtree(repo.cache)
        (repo.root / "x").unlink()
        with pytest.raises(Damaged, match=md5):
            transfer.pull(repo)
        assert not (repo.root / "x").exists() and caches.of(repo).all() == []
        place.unlink()


def test_a_wrong_size_decides_nothing(repo: Repository) -> None:
    """As with dvc only the md5 does; nobody reserves or reads by it."""
    fill(repo.root, {"x": b"four"})
    snapshot.add(repo.root, Path("x"))
    transfer.push(repo)
    pointer = repo.root / "x.dvc"
    pointer.write_text(pointer.read_text().replace("size: 4", "size: 999999999999999999999"))
    shutil.rmtree(repo.cache)
    (repo.root / "x").unlink()
    transfer.pull(repo)
    assert (repo.root / "x").read_bytes() == b"four" and status.outs(repo) == []


def test_links_do_not_lead_out(repo: Repository, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    fill(outside, {"secret": b"keep me"})
    fill(repo.root / "data", {"sub/b": b"b", "c": b"c"})
    snapshot.add(repo.root, Path("data"))
    transfer.push(repo)
    # A folder above the data, inside the data, or the data itself is swapped for a link.
    shutil.rmtree(repo.root / "data" / "sub")
    (repo.root / "data" / "sub").symlink_to(outside)
    with pytest.raises(Conflict, match="link"):
        checkout.checkout(repo, force=True)
    shutil.rmtree(repo.root / "data")
    (repo.root / "data").symlink_to(outside)
    checkout.checkout(repo, force=True)
    assert content(repo.root / "data") == {"sub/b": b"b", "c": b"c"} and not (repo.root / "data").is_symlink()
    (repo.root / "way").symlink_to(outside)
    (repo.root / "x.dvc").write_text(out(path="way/secret"))
    with pytest.raises(BadInput, match="leads out"):
        checkout.checkout(repo, force=True)
    with pytest.raises(BadInput, match="leads out"):
        snapshot.add(repo.root, Path("way/secret"))
    assert content(outside) == {"secret": b"keep me"}


def test_a_file_that_is_swapped_for_a_link_is_replaced_not_followed(repo: Repository, tmp_path: Path) -> None:
    fill(tmp_path, {"victim": b"keep me"})
    fill(repo.root, {"x": b"tracked"})
    snapshot.add(repo.root, Path("x"))
    (repo.root / "x").unlink()
    (repo.root / "x").symlink_to(tmp_path / "victim")
    checkout.checkout(repo, force=True)
    assert (tmp_path / "victim").read_bytes() == b"keep me"
    assert (repo.root / "x").read_bytes() == b"tracked" and not (repo.root / "x").is_symlink()


@pytest.mark.parametrize("size", [5000, 5 << 20])
@pytest.mark.parametrize("links", ["copy", "reflink,copy", "hardlink"])
def test_a_file_that_changes_while_it_is_hashed_is_not_kept(
    repo: Repository, monkeypatch: pytest.MonkeyPatch, size: int, links: str
) -> None:
    (repo.dvc / "config").write_text(f"[cache]\n    type = {links}\n")
    repo = repository.open_at(repo.root)
    place = repo.root / "x"
    place.write_bytes(os.urandom(size))
    opened = hashing.open_regular

    def changing(path: Any) -> tuple[int, os.stat_result]:
        fd, before = opened(path)
        if os.fspath(path) == str(place):
            with place.open("r+b") as f:
                f.write(os.urandom(16))
            os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
        return fd, before

    monkeypatch.setattr(hashing, "open_regular", changing)
    with pytest.raises(Conflict, match="changed"):
        snapshot.add(repo.root, Path("x"))
    monkeypatch.undo()
    assert caches.of(repo).all() == [] and not (repo.root / "x.dvc").exists()
    snapshot.add(repo.root, Path("x"))
    assert status.outs(repo) == []


def test_names_and_files_that_cannot_be_tracked(repo: Repository) -> None:
    (repo.root / "d").mkdir()
    for make, words in (
        (lambda p: os.mkfifo(p), "not a regular file"),
        (lambda p: p.symlink_to("nowhere"), "broken link"),
        (lambda p: os.mknod(p, 0o140644), "not a regular file"),
    ):
        make(repo.root / "d" / "odd")
        with pytest.raises((BadInput, NotFound), match=words) as caught:
            snapshot.add(repo.root, Path("d"))
        assert caught.value.hint
        (repo.root / "d" / "odd").unlink()
    with open(os.fsencode(repo.root / "d") + b"/\xff", "wb"):
        pass
    with pytest.raises(BadInput, match="UTF-8"):
        snapshot.add(repo.root, Path("d"))
    assert not (repo.root / "d.dvc").exists()


def test_a_gitignore_that_is_not_utf8_is_kept_byte_for_byte(repo: Repository) -> None:
    (repo.root / ".gitignore").write_bytes(b"\xff\xfe*.old")
    fill(repo.root, {"x": b"x"})
    snapshot.add(repo.root, Path("x"))
    assert (repo.root / ".gitignore").read_bytes() == b"\xff\xfe*.old\n/x\n"


def test_hostile_history_and_revisions(repo: Repository) -> None:
    fill(repo.root, {"x.csv": b"a\n1\n"})
    snapshot.add(repo.root, Path("x.csv"))
    commit(repo.root, "one")
    (repo.root / "evil.dvc").write_text(out(path="../../evil"))
    commit(repo.root, "evil")
    (repo.root / "evil.dvc").unlink()
    assert {ref.out.path for ref in history.references(repo)} == {"x.csv"}
    for revision in ("--output=/tmp/x", "nothing", "HEAD:x.csv.dvc", ""):
        with pytest.raises((NotFound, BadInput)):
            diff.between(repo, repo.root / "x.csv", revision)
    assert pointers.read(repo.root / "x.csv.dvc", repo.root)
