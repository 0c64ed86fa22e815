"""Push, fetch, pull, checkout, scrub, gc: what arrives is what was named, and nothing needed is lost."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from tests.data.conftest import commit, content, fill

from holdfast.core.errors import BadInput, Conflict, Damaged, HoldfastError, NotFound
from holdfast.data import cache as caches
from holdfast.data import checkout, gc, manifest, pointers, repository, scrub, snapshot, status, transfer, unprotect
from holdfast.data.repository import Repository

FILES = {"a.bin": b"a" * 100, "sub/b.bin": b"b", "sub-1/ü d.bin": b"c" * 5000, "empty": b"", ".hidden": b"h"}


def track(repo: Repository, files: dict[str, bytes]) -> str:
    shutil.rmtree(repo.root / "data", ignore_errors=True)
    fill(repo.root / "data", files)
    return snapshot.add(repo.root, Path("data")).md5


def forget_cache(repo: Repository) -> None:
    shutil.rmtree(repo.cache)


@pytest.mark.parametrize("links", ["copy", "hardlink", "symlink", "reflink,copy"])
def test_round_trip_by_every_way_of_placing(repo: Repository, links: str) -> None:
    config = repo.dvc / "config"
    config.write_text(config.read_text() + f"[cache]\n    type = {links}\n")
    from holdfast.data import repository

    repo = repository.open_at(repo.root)
    track(repo, FILES)
    assert transfer.push(repo, verify=True).objects == len(FILES) + 1
    assert transfer.push(repo).objects == 0
    forget_cache(repo)
    shutil.rmtree(repo.root / "data")
    assert [s.state for s in status.outs(repo)] == ["not in cache"]
    transfer.pull(repo)
    assert content(repo.root / "data") == FILES
    assert status.outs(repo) == []


def test_one_file_of_a_folder(repo: Repository) -> None:
    track(repo, FILES)
    transfer.push(repo)
    forget_cache(repo)
    shutil.rmtree(repo.root / "data")
    moved, _ = transfer.pull(repo, [repo.root / "data" / "sub" / "b.bin"])
    assert content(repo.root / "data") == {"sub/b.bin": b"b"}
    assert moved.objects == 2  # the file and the manifest


def test_damaged_object_is_neither_pushed_nor_placed_nor_fetched(repo: Repository) -> None:
    track(repo, FILES)
    transfer.push(repo)
    cache = caches.of(repo)
    md5 = pointers.read(repo.root / "data.dvc", repo.root).outs[0].md5
    assert md5 is not None
    victim = cache.members(md5)["a.bin"]
    store = caches.Cache(repo.root.parent / "store")
    flip(store.path(victim))
    os.unlink(cache.path(victim))
    with pytest.raises(Damaged):
        transfer.fetch(repo)
    assert not cache.has(victim)
    assert not any((cache.root / "holdfast-tmp").iterdir())


def flip(path: str) -> None:
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 1
    os.chmod(path, 0o644)
    Path(path).write_bytes(data)
    os.chmod(path, 0o444)


def test_scrub_finds_every_flip_and_mends_it(repo: Repository) -> None:
    rng = random.Random(7)
    track(repo, {f"{i}.bin": rng.randbytes(rng.randint(1, 3000)) for i in range(60)})
    commit(repo.root, "one")
    transfer.push(repo)
    cache = caches.of(repo)
    doomed = set(rng.sample(cache.all(), 25))
    for md5 in doomed:
        flip(cache.path(md5))
    found = scrub.scrub(repo)
    assert {bad.md5 for bad in found.bad} == doomed
    assert all(
        any("data in the workspace" in who for who in bad.affects) for bad in found.bad if not bad.md5.endswith(".dir")
    )
    mended = scrub.scrub(repo, repair=True)
    assert {bad.md5 for bad in mended.bad if bad.repaired_from} == doomed
    assert scrub.scrub(repo).bad == []


def test_gc_keeps_what_branches_and_records_need(repo: Repository) -> None:
    first = track(repo, FILES)
    commit(repo.root, "one")
    second = track(repo, {**FILES, "a.bin": b"second"})
    third = track(repo, {"z.bin": b"third"})
    cache = caches.of(repo)
    with pytest.raises(Conflict, match="branch"):
        gc.forget(repo, [first])
    with pytest.raises(Conflict, match="run 7"):
        gc.forget(repo, [second], referrers=[lambda: [(second, "run 7")]])
    swept = gc.collect(repo, referrers=[lambda: [(second, "run 7")]])
    assert swept.removed == []
    swept = gc.collect(repo)
    assert second in swept.removed
    assert cache.has(first) and cache.has(third) and not cache.has(second)
    assert set(cache.members(first).values()) <= set(cache.all())


def test_checkout_refuses_to_lose_work(repo: Repository) -> None:
    track(repo, FILES)
    (repo.root / "data" / "a.bin").write_bytes(b"mine, nowhere else")
    with pytest.raises(Conflict, match=r"a\.bin"):
        checkout.checkout(repo)
    assert (repo.root / "data" / "a.bin").read_bytes() == b"mine, nowhere else"
    checkout.checkout(repo, force=True)
    assert content(repo.root / "data") == FILES


HOSTILE = ["../x", "/etc/x", "a/../../x", "", "a//b", ".git/config", "a\0b", "."]


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_manifest_touches_nothing(repo: Repository, path: str) -> None:
    md5 = track(repo, FILES)
    cache = caches.of(repo)
    member = cache.members(md5)["a.bin"]
    import json

    data = json.dumps([{"md5": member, "relpath": path}]).encode()
    name = manifest.name(data)
    cache.put(data, name)
    pointer = repo.root / "data.dvc"
    pointer.write_text(pointer.read_text().replace(md5, name))
    before = content(repo.root.parent)
    with pytest.raises(BadInput):
        checkout.checkout(repo, force=True)
    assert content(repo.root.parent) == before


POINTERS = {
    "escape": "outs:\n- md5: 401b30e3b8b5d629635a5c613cdb7919\n  size: 2\n  hash: md5\n  path: ../out\n",
    "absolute": "outs:\n- md5: 401b30e3b8b5d629635a5c613cdb7919\n  size: 2\n  hash: md5\n  path: /tmp/out\n",
    "into .git": "outs:\n- md5: 401b30e3b8b5d629635a5c613cdb7919\n  size: 2\n  hash: md5\n  path: .git/hooks\n",
    "no hash": "outs:\n- md5: ../../../../etc/passwd\n  size: 2\n  hash: md5\n  path: x\n",
    "unknown key": "outs:\n- md5: 401b30e3b8b5d629635a5c613cdb7919\n  run: evil\n  path: x\n",
    "bomb": "a: &a [x, x]\nb: &b [*a, *a, *a]\nouts: [*b, *b]\n",
    "deep": "outs: " + "[" * 200 + "]" * 200 + "\n",
    "tag": "outs: !!python/object/apply:os.system ['true']\n",
    "negative": "outs:\n- md5: 401b30e3b8b5d629635a5c613cdb7919\n  size: -2\n  path: x\n",
    "binary": "outs:\n- md5: \x00\n",
}


@pytest.mark.parametrize("kind", POINTERS)
def test_hostile_pointer_is_refused(repo: Repository, kind: str) -> None:
    (repo.root / "x.dvc").write_text(POINTERS[kind])
    with pytest.raises(BadInput):
        status.outs(repo)


def test_link_in_the_workspace_does_not_lead_out(repo: Repository, tmp_path: Path) -> None:
    track(repo, FILES)
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(repo.root / "data" / "sub")
    (repo.root / "data" / "sub").symlink_to(outside)
    with pytest.raises(Conflict, match="link"):
        checkout.checkout(repo, force=True)
    assert list(outside.iterdir()) == []


def test_pipe_is_refused_without_waiting(repo: Repository) -> None:
    (repo.root / "data").mkdir()
    os.mkfifo(repo.root / "data" / "pipe")
    with pytest.raises(BadInput, match="not a regular file"):
        snapshot.add(repo.root, Path("data"))


def test_missing_everywhere_says_so(repo: Repository) -> None:
    track(repo, FILES)
    forget_cache(repo)
    shutil.rmtree(repo.root / "data")
    with pytest.raises(NotFound, match=r"data \(.{8}\) is in neither"):
        transfer.pull(repo)


@pytest.mark.parametrize("many", [False, True])
def test_what_is_missing_is_named_and_the_rest_is_pulled(
    repo: Repository, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer.crew, "MANY", 1 if many else 1000)
    track(repo, FILES)
    fill(repo.root, {"lost": b"l", "kept": b"k", "other/a": b"1", "other/b": b"2"})
    md5s = [snapshot.add(repo.root, Path(name)).md5 for name in ("lost", "kept", "other")]
    transfer.push(repo)
    there = repo.root.parent / "store" / "files" / "md5"
    (there / md5s[0][:2] / md5s[0][2:]).unlink()
    two = next(md5 for path, md5 in caches.of(repo).members(md5s[2]).items() if path == "b")
    (there / two[:2] / two[2:]).unlink()
    forget_cache(repo)
    for name in ("data", "other"):
        shutil.rmtree(repo.root / name)
    for name in ("lost", "kept"):
        (repo.root / name).unlink()
    with pytest.raises(NotFound, match=r"(lost|other/b) \(.{8}\) is in neither .* 1 more"):
        transfer.pull(repo)
    assert content(repo.root / "data") == FILES and (repo.root / "kept").read_bytes() == b"k"
    assert not (repo.root / "lost").exists() and not (repo.root / "other").exists()
    assert not caches.of(repo).has(md5s[2]), "a manifest came before its members"
    assert not list((repo.cache / "holdfast-tmp").iterdir())
    assert transfer.pull(repo, [repo.root / "other" / "a"])[1].files == 1


def test_lock_held_by_another_is_a_clear_refusal(repo: Repository) -> None:
    with repo.lock(), pytest.raises(HoldfastError, match=f"locked by process {os.getpid()}"), repo.lock(wait=0.1):
        pass


def test_a_version_has_both_names_after_a_checkout_too(repo: Repository) -> None:
    fill(repo.root / "d", {f"{i}": bytes([i]) for i in range(5)})
    added = snapshot.add(repo.root, Path("d"))
    shutil.rmtree(repo.root / "d")
    shutil.rmtree(repo.state)
    checkout.checkout(repo)
    assert snapshot.identify(repo.root / "d").sha256 == added.sha256
    (repo.root / "d" / "1").touch()
    again = snapshot.identify(repo.root / "d")
    assert (again.md5, again.sha256) == (added.md5, added.sha256)


@pytest.mark.parametrize("links", ["hardlink", "symlink", "copy"])
def test_linked_files_become_files_of_their_own_and_can_be_edited(repo: Repository, links: str) -> None:
    (repo.dvc / "config").write_text(f"[cache]\n    type = {links}\n")
    repo = repository.open_at(repo.root)
    track(repo, FILES)
    fill(repo.root, {"run.sh": b"#!/bin/sh\n"})
    (repo.root / "run.sh").chmod(0o755)
    snapshot.add(repo.root, Path("run.sh"))
    own = repo.root / "data" / "own"
    own.symlink_to(repo.root.parent)
    linked = [f"data/{name}" for name, data in FILES.items() if data]
    first = "data/sub/b.bin"
    assert unprotect.unprotect(repo, [Path(first)]) == ([first] if links != "copy" else [])
    rest = [] if links == "copy" else [*(name for name in linked if name != first), "run.sh"]
    assert sorted(unprotect.unprotect(repo, [])) == sorted(rest)
    assert unprotect.unprotect(repo, []) == [] and own.is_symlink() and status.outs(repo) == []
    for name in FILES:
        with (repo.root / "data" / name).open("r+b") as f:
            f.write(b"edited in place")
    assert os.access(repo.root / "run.sh", os.X_OK)
    assert [s.path for s in status.outs(repo)] == ["data"]
    assert scrub.scrub(repo).bad == []


def test_what_a_link_led_to_is_gone(repo: Repository) -> None:
    (repo.dvc / "config").write_text("[cache]\n    type = symlink\n")
    repo = repository.open_at(repo.root)
    fill(repo.root, {"x": b"x"})
    snapshot.add(repo.root, Path("x"))
    forget_cache(repo)
    with pytest.raises(NotFound, match="x is a link to an object that is gone"):
        unprotect.unprotect(repo, [])


def test_a_file_in_the_place_of_an_empty_folder_is_kept_unless_forced(repo: Repository) -> None:
    (repo.root / "d").mkdir()
    snapshot.add(repo.root, Path("d"))
    (repo.root / "d").rmdir()
    fill(repo.root, {"d": b"mine, nowhere else"})
    with pytest.raises(Conflict, match="in the way"):
        checkout.checkout(repo)
    assert (repo.root / "d").read_bytes() == b"mine, nowhere else"
    checkout.checkout(repo, force=True)
    assert (repo.root / "d").is_dir() and status.outs(repo) == []


def test_a_mistyped_name_inside_a_folder_is_told(repo: Repository) -> None:
    track(repo, FILES)
    transfer.push(repo)
    for verb in (transfer.fetch, transfer.pull, checkout.checkout):
        with pytest.raises(NotFound, match="nope is not in data"):
            verb(repo, [repo.root / "data" / "sub", repo.root / "data" / "nope"])
        verb(repo, [repo.root / "data" / "sub"])
    (repo.root / "data" / "sub" / "b.bin").unlink()
    forget_cache(repo)
    assert transfer.pull(repo, [repo.root / "data" / "sub" / "b.bin"])[1].files == 1


def test_the_longest_name_a_pointer_can_have(repo: Repository) -> None:
    name = "n" * 251
    for data in (b"1", b"2"):
        fill(repo.root, {name: data})
        snapshot.add(repo.root, Path(name))
    assert sorted(p.name for p in repo.root.iterdir()) == [
        ".dvc",
        ".dvcignore",
        ".git",
        ".gitignore",
        name,
        f"{name}.dvc",
    ]
