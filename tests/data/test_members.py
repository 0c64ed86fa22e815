"""One file of a tracked folder without the rest, the end of tracking, and 2.x data brought to 3.x."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from tests.data.conftest import clean, content, fill, run

from holdfast.core.errors import BadInput, Conflict, NotFound
from holdfast.data import cache as caches
from holdfast.data import checkout, members, migrate, pointers, remove, snapshot, stages, status, transfer
from holdfast.data.repository import Repository

FILES = {"a": b"aaa", "sub/b": b"b", "sub/c": b"cc"}


def alone(repo: Repository) -> None:
    """Tracked and pushed, and nothing of it here."""
    fill(repo.root / "data", FILES)
    snapshot.add(repo.root, Path("data"))
    transfer.push(repo)
    shutil.rmtree(repo.cache)
    shutil.rmtree(repo.root / "data")


def test_files_are_added_replaced_and_dropped_without_the_rest(repo: Repository) -> None:
    alone(repo)
    fill(repo.root / "data", {"new/x": b"xx", "new/y": b"y"})
    done = members.add(repo, repo.root / "data" / "new")
    assert (done.added, done.removed, done.files, done.size) == (["new/x", "new/y"], [], 5, 9)
    transfer.pull(repo, [repo.root / "data" / "a"])
    fill(repo.root / "data", {"a": b"other"})
    done = members.add(repo, repo.root / "data" / "a")
    assert (done.added, done.removed, done.size) == (["a"], [], None)
    members.drop(repo, [repo.root / "data" / "sub" / "b"])
    (repo.root / "data" / "new" / "y").unlink()
    assert members.add(repo, repo.root / "data" / "new" / "y").removed == ["new/y"]
    transfer.push(repo)
    shutil.rmtree(repo.cache)
    shutil.rmtree(repo.root / "data")
    transfer.pull(repo)
    assert content(repo.root / "data") == {"a": b"other", "sub/c": b"cc", "new/x": b"xx"}
    assert status.outs(repo) == []


@pytest.mark.peer
@pytest.mark.soak
def test_the_folders_pointer_is_what_dvc_writes(dvc: str, repo: Repository) -> None:
    pointer = repo.root / "data.dvc"
    alone(repo)
    start = pointer.read_bytes()
    ours = []
    fill(repo.root / "data", {"new": b"nn"})
    members.add(repo, repo.root / "data" / "new")
    ours.append(pointer.read_bytes())
    fill(repo.root / "data", {"a": b"other"})
    members.add(repo, repo.root / "data" / "a")
    ours.append(pointer.read_bytes())
    shutil.rmtree(repo.cache)
    shutil.rmtree(repo.root / "data")
    pointer.write_bytes(start)
    theirs = []
    for name, data in (("new", b"nn"), ("a", b"other")):
        fill(repo.root / "data", {name: data})
        run(dvc, repo, "fetch", "-q")
        run(dvc, repo, "add", "-q", f"data/{name}")
        theirs.append(pointer.read_bytes())
    assert ours == theirs


def test_what_cannot_be_added_alone_is_refused(repo: Repository) -> None:
    fill(repo.root, {"f": b"f", "x/y": b"y"})
    snapshot.add(repo.root, Path("f"))
    with pytest.raises(NotFound, match="no tracked folder"):
        members.add(repo, repo.root / "x" / "y")
    alone(repo)
    with pytest.raises(NotFound, match="does not exist"):
        members.add(repo, repo.root / "data" / "nothing")
    with pytest.raises(NotFound, match="not in data"):
        members.drop(repo, [repo.root / "data" / "nothing"])
    transfer.pull(repo)
    (repo.root / "data" / "a").write_bytes(b"mine alone")
    with pytest.raises(Conflict, match="in no cache"):
        members.drop(repo, [repo.root / "data" / "a"])
    assert (repo.root / "data" / "a").read_bytes() == b"mine alone"
    with pytest.raises(Conflict, match="tracked as a whole"):
        snapshot.add(repo.root, Path("data/a"))
    fill(repo.root / "outer", {"inner": b"i"})
    snapshot.add(repo.root, Path("outer/inner"))
    with pytest.raises(Conflict, match="tracked already"):
        snapshot.add(repo.root, Path("outer"))


def test_removing_ends_tracking_and_keeps_the_bytes(repo: Repository) -> None:
    fill(repo.root, {"d/a": b"a", "f": b"f", ".gitignore": b"*.tmp\n"})
    snapshot.add(repo.root, Path("d"))
    snapshot.add(repo.root, Path("f"))
    assert remove.remove(repo, [repo.root / "d"]) == ["d.dvc"]
    assert (repo.root / "d" / "a").exists() and not (repo.root / "d.dvc").exists()
    assert (repo.root / ".gitignore").read_text() == "*.tmp\n/f\n"
    (repo.root / "f").write_bytes(b"changed")
    with pytest.raises(Conflict, match="modified"):
        remove.remove(repo, [repo.root / "f.dvc"], outs=True)
    assert (repo.root / "f.dvc").exists()
    remove.remove(repo, [repo.root / "f.dvc"], outs=True, force=True)
    assert not (repo.root / "f").exists() and (repo.root / ".gitignore").read_text() == "*.tmp\n"
    with pytest.raises(NotFound, match="no pointer"):
        remove.remove(repo, [repo.root / "f"])


@pytest.mark.peer
@pytest.mark.soak
def test_removing_leaves_what_dvc_leaves(dvc: str, repo: Repository) -> None:
    left = []
    for by_dvc in (True, False):
        fill(repo.root, {"d/a": b"a", "f": b"f"})
        snapshot.add(repo.root, Path("d"))
        snapshot.add(repo.root, Path("f"))
        if by_dvc:
            run(dvc, repo, "remove", "-q", "d.dvc")
            run(dvc, repo, "remove", "-q", "--outs", "f.dvc")
        else:
            remove.remove(repo, [repo.root / "d.dvc"])
            remove.remove(repo, [repo.root / "f.dvc"], outs=True)
        left.append({k: v for k, v in content(repo.root).items() if not k.startswith((".git/", ".dvc/"))})
    assert left[0] == left[1]


def old(repo: Repository, files: dict[str, bytes]) -> dict[str, str]:
    """2.x objects of files in the cache; path → 2.x name."""
    names = {path: hashlib.md5(data.replace(b"\r\n", b"\n")).hexdigest() for path, data in files.items()}
    for path, name in names.items():
        fill(repo.cache, {f"{name[:2]}/{name[2:]}": files[path]})
        os.chmod(repo.cache / name[:2] / name[2:], 0o444)
    return names


def two_x(repo: Repository) -> dict[str, bytes]:
    """A 2.x repository: a folder, a file, and a stage's lock."""
    files = {"one": b"a\r\nb\r\n", "two": b"plain\n"}
    names = old(repo, files)
    from holdfast.data import manifest

    listing = manifest.render(names.items())
    folder = manifest.name(listing)
    fill(repo.cache, {f"{folder[:2]}/{folder[2:]}": listing})
    os.chmod(repo.cache / folder[:2] / folder[2:], 0o444)
    size = sum(map(len, files.values()))
    lock = f"schema: '2.0'\nstages:\n  s:\n    cmd: cp one.txt out.txt\n    outs:\n    - path: out.txt\n      md5: {names['one']}\n      size: 6\n"
    fill(
        repo.root,
        {
            "d.dvc": f"# ours\nouts:\n- md5: {folder}\n  size: {size}\n  nfiles: 2\n  path: d\n".encode(),
            "one.txt.dvc": f"outs:\n- md5: {names['one']}\n  size: 6\n  path: one.txt\n  desc: kept\n".encode(),
            "dvc.yaml": b"stages:\n  s:\n    cmd: cp one.txt out.txt\n    outs:\n    - out.txt\n",
            "dvc.lock": lock.encode(),
            ".gitignore": b"/d\n/one.txt\n/out.txt\n",
        },
    )
    return files


def test_two_x_data_is_brought_to_three(repo: Repository) -> None:
    files = two_x(repo)
    checkout.checkout(repo)
    assert content(repo.root / "d") == files
    planned = migrate.migrate(repo, dvc_files=True, dry=True)
    assert planned.objects == 2 and planned.files == ["d.dvc", "one.txt.dvc", "dvc.lock"]
    assert pointers.read(repo.root / "d.dvc", repo.root).outs[0].legacy
    done = migrate.migrate(repo, dvc_files=True)
    assert (done.files, done.skipped) == (["d.dvc", "one.txt.dvc", "dvc.lock"], {})
    assert status.outs(repo) == []
    out = pointers.read(repo.root / "one.txt.dvc", repo.root).outs[0]
    assert not out.legacy and out.md5 == hashlib.md5(files["one"]).hexdigest()
    assert "# ours" in (repo.root / "d.dvc").read_text() and "desc: kept" in (repo.root / "one.txt.dvc").read_text()
    assert stages.read_lock(repo.root / "dvc.lock")["s"]["outs"][0]["md5"] == out.md5
    cache = caches.of(repo)
    assert os.stat(cache.path(out.md5)).st_mode & 0o777 == 0o444
    shutil.rmtree(repo.root / "d")
    checkout.checkout(repo)
    assert content(repo.root / "d") == files
    assert migrate.migrate(repo, dvc_files=True).files == []


def test_what_is_not_in_the_cache_is_left_and_named(repo: Repository) -> None:
    two_x(repo)
    name = hashlib.md5(b"plain\n").hexdigest()
    (repo.cache / name[:2] / name[2:]).unlink()
    before = (repo.root / "d.dvc").read_bytes()
    done = migrate.migrate(repo, dvc_files=True)
    assert done.skipped == {"d.dvc: d": "two is not in the cache"}
    assert (repo.root / "d.dvc").read_bytes() == before


@pytest.mark.peer
def test_migration_writes_what_dvcs_own_writes(dvc: str, repo: Repository) -> None:
    two_x(repo)
    run(dvc, repo, "checkout", "-q")
    before = {f: (repo.root / f).read_bytes() for f in ("d.dvc", "one.txt.dvc", "dvc.lock")}
    run(dvc, repo, "cache", "migrate", "--dvc-files", "-q")
    theirs = {f: (repo.root / f).read_bytes() for f in before}
    for name, data in before.items():
        (repo.root / name).write_bytes(data)
    shutil.rmtree(repo.cache / "files")
    migrate.migrate(repo, dvc_files=True)
    assert {f: (repo.root / f).read_bytes() for f in before} == theirs
    clean(dvc, repo)


def test_an_import_and_two_x_data_are_not_changed_by_halves(repo: Repository, tmp_path: Path) -> None:
    from holdfast.data import imports

    fill(tmp_path / "o", {"a": b"a"})
    imports.from_url(repo, "../o")
    fill(repo.root / "o", {"b": b"b"})
    with pytest.raises(BadInput, match="is an import"):
        members.add(repo, repo.root / "o" / "b")
    two_x(repo)
    checkout.checkout(repo, [repo.root / "d"])
    with pytest.raises(BadInput, match=r"2\.x"):
        members.add(repo, repo.root / "d" / "one")
