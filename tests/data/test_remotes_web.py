"""A web server as a remote: what is pushed is there, whole, or it is said why not; and DVC pushes to and pulls from the same."""

from __future__ import annotations

import base64
import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.data.conftest import clean, content, fill, run
from tests.data.test_remotes import FILES, SECRET, configured, fresh

from holdfast.core.errors import BadConfig, Damaged, NotFound, Unavailable
from holdfast.data import cache as caches
from holdfast.data import gc, remotes, scrub, snapshot, status, transfer
from holdfast.data import shared as both_sides
from holdfast.data.remotes import Name
from holdfast.data.repository import Repository

ME = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()


class Shop:
    """A server of files that takes uploads. ``wrong`` makes it answer so, or lose, or cut what it takes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.method, self.wrong, self.taken = folder, "POST", "", list[str]()
        self.barred = ""
        folder.mkdir()
        shop = self

        class Door(http.server.SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _let_in(self, go: Callable[[], None]) -> None:
                if shop.barred and self.headers.get("Authorization") != shop.barred:
                    self.answer(401)
                else:
                    go()

            def answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self._let_in(super().do_GET)

            def do_HEAD(self) -> None:
                self._let_in(super().do_HEAD)

            def do_POST(self) -> None:
                self._let_in(functools.partial(self._take, "POST"))

            def do_PUT(self) -> None:
                self._let_in(functools.partial(self._take, "PUT"))

            def _body(self) -> bytes:
                if "Content-Length" in self.headers:
                    return self.rfile.read(int(self.headers["Content-Length"]))
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data

            def _take(self, method: str) -> None:
                data = self._body()
                if shop.wrong.isdecimal() or method != shop.method:
                    return self.answer(int(shop.wrong or 405))
                shop.taken.append(self.path)
                if shop.wrong != "lost":
                    place = Path(self.translate_path(self.path))
                    place.parent.mkdir(parents=True, exist_ok=True)
                    temporary = place.with_name(f"{place.name}.{threading.get_ident()}")
                    temporary.write_bytes(data[: -1 if shop.wrong == "cut" else None])
                    temporary.replace(place)
                return self.answer(201)

            def log_message(self, *words: object) -> None:
                return None

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Door, directory=str(folder)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/some/where"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path / "shop")
    yield made
    made.close()


@pytest.fixture
def web(repo: Repository, shop: Shop) -> Repository:
    """Data that is tracked and not yet pushed, and the shop as its remote."""
    repo = configured(repo, shop.url, {})
    fill(repo.root / "data", FILES)
    fill(repo.root, {"single": b"one file"})
    snapshot.add(repo.root, Path("data"))
    snapshot.add(repo.root, Path("single"))
    return repo


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_what_is_pushed_comes_back_and_nothing_is_sent_twice(web: Repository, shop: Shop, method: str) -> None:
    shop.method, shop.barred = method, ME
    options = {"auth": "basic", "user": "me", "password": SECRET, "method": method.lower()}
    web = configured(web, shop.url, options)
    names = {"data", "single", *(f"data/{name}" for name in FILES)}
    assert both_sides.compare(web) == dict.fromkeys(names, "new")
    assert transfer.push(web, verify=True).objects == len(FILES) + 2
    assert transfer.push(web).objects == 0 and both_sides.compare(web) == {}
    # DVC's layout; a manifest comes after what it names.
    assert {str(p.relative_to(shop.folder / "some/where")) for p in shop.folder.rglob("*") if p.is_file()} == {
        os.path.relpath(caches.of(web).path(md5), web.cache) for md5 in caches.of(web).all()
    }
    assert [path.endswith(".dir") for path in shop.taken].index(True) == len(shop.taken) - 1
    fresh(web)
    transfer.pull(web)
    assert content(web.root / "data") == FILES and (web.root / "single").read_bytes() == b"one file"
    assert status.outs(web) == []


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ("405", BadConfig, r"takes no uploads by POST \(405\)"),
        ("404", BadConfig, "takes no uploads"),
        ("403", Unavailable, "refuses uploads"),
        ("302", BadConfig, "leads uploads elsewhere"),
        ("413", Unavailable, r"did not take object \w+ \(413\)"),
        ("503", Unavailable, "did not take"),
        ("lost", BadConfig, "took object .* and does not have it"),
        ("cut", Damaged, "another size"),
    ],
)
def test_an_upload_that_did_not_arrive_is_told(
    web: Repository, shop: Shop, wrong: str, kind: type[Exception], words: str
) -> None:
    shop.wrong = wrong
    with pytest.raises(kind, match=words):
        transfer.push(web)
    assert not any(path.endswith(".dir") for path in shop.taken)
    shop.wrong = ""
    shutil.rmtree(shop.folder)  # what was cut is there under its name, as after any broken upload to such a server
    shop.folder.mkdir()
    transfer.push(web, verify=True)


def test_other_methods_and_closed_doors_are_named_with_their_mend(web: Repository, shop: Shop) -> None:
    shop.method = "PUT"
    with pytest.raises(BadConfig) as caught:
        transfer.push(web)
    assert "method = PUT" in str(caught.value.hint)
    shop.barred = ME
    with pytest.raises(Unavailable, match="refuses") as refused:
        transfer.push(configured(web, shop.url, {"auth": "basic", "user": "me", "password": "wrong" + SECRET}))
    assert SECRET not in str(refused.value)
    shop.close()
    with pytest.raises(Unavailable, match="cannot be reached"):
        transfer.push(web)


def test_a_server_that_lists_nothing_is_not_swept(web: Repository) -> None:
    transfer.push(web)
    with pytest.raises(BadConfig, match="cannot say which objects it holds"):
        gc.collect(web, cloud=True)
    with pytest.raises(BadConfig, match="cannot say which"):
        scrub.scrub(web, also_remote=True)
    with pytest.raises(BadConfig, match="cannot remove"):
        remotes.of(web).delete(Name("a" * 32))


def test_a_flipped_bit_is_found_and_not_taken(web: Repository, shop: Shop) -> None:
    transfer.push(web)
    victim = Name(snapshot.identify(web.root / "data" / "a.bin").md5)
    place = shop.folder / "some" / "where" / victim.key
    place.write_bytes(b"b" + place.read_bytes()[1:])
    with pytest.raises(Damaged, match=victim.md5):
        transfer.push(web, verify=True)
    fresh(web)
    with pytest.raises(Damaged, match=victim.md5):
        transfer.pull(web)
    assert not caches.of(web).has(victim.md5)
    place.unlink()
    with pytest.raises(NotFound):
        transfer.pull(web)


@pytest.mark.peer
def test_dvc_takes_what_we_bring_and_brings_what_we_take(dvc: str, web: Repository, shop: Shop) -> None:
    shop.barred = ME
    web = configured(web, shop.url, {"auth": "basic", "user": "me", "password": SECRET})
    transfer.push(web)
    fresh(web)
    run(dvc, web, "pull", "-q")
    assert content(web.root / "data") == FILES
    clean(dvc, web)
    fill(web.root / "data", {"more": b"more"})
    run(dvc, web, "add", "-q", "data")
    run(dvc, web, "push", "-q")
    assert transfer.push(web).objects == 0
    fresh(web)
    transfer.pull(web)
    assert content(web.root / "data") == {**FILES, "more": b"more"}
