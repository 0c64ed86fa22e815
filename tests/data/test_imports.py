"""Imports from other repositories and URLs: DVC's own pointers, data that can be had again, updates that lose nothing."""

from __future__ import annotations

import functools
import hashlib
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.data.conftest import clean, commit, content, fill, git, run

from holdfast.core.errors import BadInput, Conflict, NotFound, Unavailable
from holdfast.data import cache as caches
from holdfast.data import imports, pointers, repository, snapshot, status, transfer
from holdfast.data.repository import Repository

DATA = {"a": b"aa", "sub/b": b"bbb", "empty": b""}


@pytest.fixture
def source(tmp_path: Path) -> Repository:
    """Another repository: tracked data pushed to its remote, and files that git keeps."""
    root = tmp_path / "source"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    repository.initialise(root)
    (root / ".dvc" / "config").write_text("[core]\n    remote = s\n['remote \"s\"']\n    url = ../../source-store\n")
    made = repository.open_at(root)
    fill(root / "data", DATA)
    fill(root, {"one.txt": b"one", "plain/p.txt": b"git keeps it", "plain/q.txt": b"q"})
    snapshot.add(root, Path("data"))
    snapshot.add(root, Path("one.txt"))
    commit(root, "first")
    transfer.push(made)
    return made


class _Tagged(http.server.SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_file() and path.suffix != ".bare":
            self.send_header("ETag", f'"{hashlib.md5(path.read_bytes()).hexdigest()[:12]}"')
        super().end_headers()

    def log_message(self, *words: object) -> None:
        return None


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(_Tagged, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


CASES = {
    "folder": ("data", None), "member": ("data/a", None), "inner folder": ("data/sub", None), "file": ("one.txt", None),
    "git's file": ("plain/p.txt", None), "git's folder": ("plain", None), "revision": ("one.txt", "main"),
}  # fmt: skip


@pytest.mark.peer
@pytest.mark.parametrize("case", [c if c == "member" else pytest.param(c, marks=pytest.mark.soak) for c in CASES])
def test_pointer_of_an_import_is_dvcs_own(dvc: str, repo: Repository, source: Repository, case: str) -> None:
    path, rev = CASES[case]
    run(dvc, repo, "import", "-q", "../source", path, "-o", "here", *(["--rev", rev] if rev else []))
    pointer = repo.root / "here.dvc"
    theirs, data = pointer.read_bytes(), content_of(repo.root / "here")
    pointer.unlink()
    shutil.rmtree(repo.cache)
    remove(repo.root / "here")
    imports.from_repository(repo, "../source", path, out=Path("here"), rev=rev)
    assert pointer.read_bytes() == theirs
    assert content_of(repo.root / "here") == data
    clean(dvc, repo)


def content_of(place: Path) -> dict[str, bytes]:
    return content(place) if place.is_dir() else {"": place.read_bytes()}


def remove(place: Path) -> None:
    shutil.rmtree(place) if place.is_dir() else place.unlink()


@pytest.mark.peer
@pytest.mark.soak
def test_urls_and_their_updates_as_dvc_writes_them(dvc: str, repo: Repository, web: tuple[str, Path]) -> None:
    url, folder = web
    fill(folder, {"f.txt": b"one", "d/1": b"1", "d/2": b"22"})
    origins = {"w.txt": f"{url}/f.txt", "l.txt": "../web/f.txt", "d": "../web/d"}
    for out, origin in origins.items():
        run(dvc, repo, "import-url", "-q", origin, out)
    theirs = {out: (repo.root / f"{out}.dvc").read_bytes() for out in origins}
    for out in origins:
        (repo.root / f"{out}.dvc").unlink()
        remove(repo.root / out)
    for out, origin in origins.items():
        imports.from_url(repo, origin, out=Path(out))
    assert {out: (repo.root / f"{out}.dvc").read_bytes() for out in origins} == theirs
    clean(dvc, repo)

    fill(folder, {"f.txt": b"changed", "d/3": b"new"})
    before = dict(theirs)
    run(dvc, repo, "update", "-q", *(f"{out}.dvc" for out in origins))
    theirs = {out: (repo.root / f"{out}.dvc").read_bytes() for out in origins}
    assert all(theirs[out] != before[out] for out in origins)
    for out in origins:
        (repo.root / f"{out}.dvc").write_bytes(before[out])
    assert all(done.changed for done in imports.update(repo, dry=True))
    assert {done.path: done.changed for done in imports.update(repo)} == dict.fromkeys(origins, True)
    assert {out: (repo.root / f"{out}.dvc").read_bytes() for out in origins} == theirs
    assert (repo.root / "w.txt").read_bytes() == b"changed" and content(repo.root / "d")["3"] == b"new"
    assert not any(done.changed for done in imports.update(repo))


@pytest.mark.peer
@pytest.mark.soak
def test_dvc_pulls_and_updates_our_import_and_we_its(dvc: str, repo: Repository, source: Repository) -> None:
    imports.from_repository(repo, "../source", "data", out=Path("mine"))
    run(dvc, repo, "import", "-q", "../source", "data", "-o", "theirs")
    shutil.rmtree(repo.cache)
    for name in ("mine", "theirs"):
        shutil.rmtree(repo.root / name)
    run(dvc, repo, "pull", "-q", "mine.dvc")
    shutil.rmtree(repo.cache)
    transfer.pull(repo, [repo.root / "theirs"])
    assert content(repo.root / "mine") == content(repo.root / "theirs") == DATA

    fill(source.root / "data", {"a": b"second"})
    snapshot.add(source.root, Path("data"))
    transfer.push(source)
    commit(source.root, "second")
    run(dvc, repo, "update", "-q", "mine.dvc")
    imports.update(repo, [repo.root / "theirs"])
    mine, theirs = (pointers.read(repo.root / f"{name}.dvc", repo.root) for name in ("mine", "theirs"))
    assert mine.outs[0].md5 == theirs.outs[0].md5 and mine.origin == theirs.origin
    assert content(repo.root / "theirs")["a"] == b"second"


def test_an_import_is_not_pushed_and_comes_back_from_its_home(repo: Repository, source: Repository) -> None:
    imports.from_repository(repo, "../source", "data")
    assert transfer.push(repo).objects == 0
    shutil.rmtree(repo.cache)
    shutil.rmtree(repo.root / "data")
    shutil.rmtree(source.cache)  # only its remote has it now
    transfer.pull(repo, [repo.root / "data" / "sub"])
    assert content(repo.root / "data") == {"sub/b": b"bbb"}
    transfer.pull(repo)
    assert content(repo.root / "data") == DATA
    assert status.outs(repo) == []


def test_a_cloned_repository_with_the_data_on_its_remote(repo: Repository, source: Repository, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(source.root), "bare.git")
    config = source.dvc / "config"
    config.write_text(config.read_text().replace("../../source-store", str(tmp_path / "source-store")))
    commit(source.root, "an absolute store")
    git(source.root, "push", "-q", str(tmp_path / "bare.git"), "main")
    url = f"file://{tmp_path}/bare.git"
    imports.from_repository(repo, url, "data/sub", out=Path("s"))
    assert content(repo.root / "s") == {"b": b"bbb"}
    first = pointers.read(repo.root / "s.dvc", repo.root).origin
    fill(source.root / "data", {"sub/b": b"later"})
    snapshot.add(source.root, Path("data"))
    transfer.push(repository.open_at(source.root))
    commit(source.root, "later")
    git(source.root, "push", "-q", str(tmp_path / "bare.git"), "main")
    assert [done.changed for done in imports.update(repo, dry=True)] == [True]
    assert pointers.read(repo.root / "s.dvc", repo.root).origin == first
    imports.update(repo)
    assert content(repo.root / "s") == {"b": b"later"}
    assert [done.changed for done in imports.update(repo)] == [False]


def test_without_download_only_the_pointer_and_pull_brings_it(repo: Repository, source: Repository) -> None:
    imports.from_repository(repo, "../source", "data", download=False)
    assert not (repo.root / "data").exists()
    transfer.pull(repo)
    assert content(repo.root / "data") == DATA and status.outs(repo) == []


def test_update_refuses_to_lose_work(repo: Repository, source: Repository) -> None:
    imports.from_repository(repo, "../source", "data")
    (repo.root / "data" / "a").write_bytes(b"mine alone")
    pointer = (repo.root / "data.dvc").read_bytes()
    fill(source.root / "data", {"a": b"second"})
    snapshot.add(source.root, Path("data"))
    commit(source.root, "second")
    with pytest.raises(Conflict, match="would be lost"):
        imports.update(repo)
    assert (repo.root / "data.dvc").read_bytes() == pointer
    assert (repo.root / "data" / "a").read_bytes() == b"mine alone"
    imports.update(repo, force=True)
    assert (repo.root / "data" / "a").read_bytes() == b"second"


def test_the_origin_is_left_as_it_is(repo: Repository, tmp_path: Path) -> None:
    fill(tmp_path / "o", {"a": b"a"})
    (tmp_path / "o" / "link").symlink_to("a")
    imports.from_url(repo, "../o")
    assert content(repo.root / "o") == {"a": b"a", "link": b"a"}
    assert (tmp_path / "o" / "link").is_symlink()
    assert (tmp_path / "o" / "a").stat().st_mode & 0o222


def test_refusals_name_the_mend_and_leave_nothing(repo: Repository, source: Repository, web: tuple[str, Path]) -> None:
    url, folder = web
    fill(folder, {"x.bare": b"no tag", "f": b"f"})
    before = content(repo.root)
    refused = [
        (NotFound, "no 'nothing'", lambda: imports.from_repository(repo, "../source", "nothing")),
        (NotFound, "no revision", lambda: imports.from_repository(repo, "../source", "data", rev="nope")),
        (BadInput, "not a revision", lambda: imports.from_repository(repo, "../source", "data", rev="--output=x")),
        (BadInput, "not a path inside", lambda: imports.from_repository(repo, "../source", "../../x")),
        (NotFound, "neither", lambda: imports.from_repository(repo, "ext::sh -c 'touch pwned'", "data")),
        (Unavailable, "cannot be cloned", lambda: imports.from_repository(repo, "ext://x/y", "data")),
        (NotFound, "neither", lambda: imports.from_repository(repo, "--upload-pack=x", "data")),
        (BadInput, "neither ETag", lambda: imports.from_url(repo, f"{url}/x.bare")),
        (NotFound, "404", lambda: imports.from_url(repo, f"{url}/gone")),
        (Unavailable, "cannot be read", lambda: imports.from_url(repo, "http://127.0.0.1:1/x")),
        (BadInput, "ftp", lambda: imports.from_url(repo, "ftp://host/x")),
        (NotFound, "does not exist", lambda: imports.from_url(repo, "../gone")),
        (BadInput, "not a place inside", lambda: imports.from_url(repo, "../web/f", out=Path("../out"))),
        (BadInput, "into itself", lambda: imports.from_url(repo, str(repo.root))),
    ]  # fmt: skip
    for kind, words, call in refused:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert caught.value.hint
    secret = url.replace("://", "://me:hunter2@") + "/f"
    with pytest.raises(BadInput) as caught:
        imports.from_url(repo, secret)
    assert "hunter2" not in str(caught.value)
    assert content(repo.root) == before
    fill(repo.root, {"f": b"in the way"})
    with pytest.raises(Conflict, match="in the way"):
        imports.from_url(repo, f"{url}/f")
    fill(repo.root / "tracked", {"x": b"x"})
    snapshot.add(repo.root, Path("tracked"))
    with pytest.raises(Conflict, match="overlaps"):
        imports.from_url(repo, f"{url}/f", out=Path("tracked/f"))
    assert caches.of(repo).all()


def test_what_was_never_hashed_is_told_as_dvc_tells_it(repo: Repository) -> None:
    for name in ("here", "gone"):
        (repo.root / f"{name}.dvc").write_text(f"outs:\n- path: {name}\n")
    fill(repo.root, {"here": b"1"})
    assert {s.path: s.state for s in status.outs(repo)} == {"here": "modified", "gone": "deleted"}
    (repo.root / "gone.dvc").unlink()
    snapshot.add(repo.root, Path("here"))
    assert not status.outs(repo)


def test_a_script_is_imported_with_the_pointer_dvc_writes(repo: Repository, tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_bytes(b"exit\n")
    script.chmod(0o755)
    imports.from_url(repo, str(script))
    deps, _, outs = (repo.root / "run.sh.dvc").read_text().partition("outs:\n")
    assert "isexec: true" in deps and "isexec" not in outs
    assert not status.outs(repo) and not any(done.changed for done in imports.update(repo))
