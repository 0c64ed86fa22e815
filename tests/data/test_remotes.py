"""Every kind of remote by one contract: verified, resumable, manifest last, damage found and mended; and their options."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import shutil
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from tests.data.conftest import content, fill
from tests.peers import environments

from holdfast.core.errors import BadConfig, Damaged, HoldfastError, NotFound, Unavailable
from holdfast.data import cache as caches
from holdfast.data import gc, hashing, pointers, remotes, repository, scrub, snapshot, status, stores, transfer
from holdfast.data import shared as both_sides
from holdfast.data.remotes import Name, Remote
from holdfast.data.repository import Repository

FILES = {"a.bin": b"a" * 70_000, "sub/b.bin": b"b", "sub-1/ü d.bin": b"c" * 5000, "empty": b""}
SECRET = "hunter2-never-shown"


def configured(repo: Repository, url: str, options: dict[str, str], *, name: str = "r") -> Repository:
    """The repository with a remote of that URL, its secrets in ``.dvc/config.local``."""
    (repo.dvc / "config").write_text(f"[core]\n    remote = {name}\n['remote \"{name}\"']\n    url = {url}\n")
    lines = "".join(f"    {key} = {value}\n" for key, value in options.items())
    (repo.dvc / "config.local").write_text(f"['remote \"{name}\"']\n{lines}")
    return repository.open_at(repo.root)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server_kind = pytest.importorskip("moto.server").ThreadedMotoServer
    server = server_kind(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


_BUCKETS = iter(range(1000))


def s3(repo: Repository, endpoint: str) -> Repository:
    import boto3

    bucket = f"data-{next(_BUCKETS)}"
    options = {"access_key_id": "me", "secret_access_key": SECRET, "region": "us-east-1"}
    boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="me", aws_secret_access_key=SECRET, region_name="us-east-1"
    ).create_bucket(Bucket=bucket)
    return configured(repo, f"s3://{bucket}/some/where", {**options, "endpointurl": endpoint})


def gs(repo: Repository, endpoint: str) -> Repository:
    """Google's XML interface is S3's but for the signature: what the library sends as a service account is taken as it is."""
    import boto3
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import rsa

    bucket = f"data{next(_BUCKETS)}"  # the library escapes a hyphen, and this server does not take that back
    boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="me", aws_secret_access_key=SECRET, region_name="us-east-1"
    ).create_bucket(Bucket=bucket)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()).decode()
    account = {"type": "service_account", "client_email": "me@p.iam", "private_key_id": "1", "private_key": text}
    (repo.dvc / "account.json").write_text(json.dumps(account))
    # As with dvc, the path is relative to the folder of the file that names it.
    return configured(repo, f"gs://{bucket}/some/where", {"credentialpath": "account.json", "endpointurl": endpoint})


AZURE = {
    "name": "devstoreaccount1",
    "key": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
}
"""The account every Azurite has; Microsoft publishes it."""


@pytest.fixture(scope="module")
def azure_server() -> Iterator[str]:
    """Azurite, which checks the signature of every request."""
    try:
        program = environments.npm_package("azurite") / "azurite-blob"
    except (FileNotFoundError, subprocess.SubprocessError) as error:
        pytest.skip(f"Azurite cannot be installed: {error}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [str(program), "--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort", str(port), "--disableTelemetry",
         "--skipApiVersionCheck"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if b"successfully listens" in line:
                break
        assert said and b"successfully" in said[-1], said
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield f"http://127.0.0.1:{port}/{AZURE['name']}"
    finally:
        process.kill()
        process.wait()


def azure(repo: Repository, endpoint: str) -> Repository:
    box = f"data-{next(_BUCKETS)}"
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    signed = "PUT" + "\n" * 12 + "".join(f"{k}:{v}\n" for k, v in headers.items())
    signed += f"/{AZURE['name']}/{AZURE['name']}/{box}\nrestype:container"
    digest = hmac.new(base64.b64decode(AZURE["key"]), signed.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {AZURE['name']}:{base64.b64encode(digest).decode()}"
    made = urllib.request.Request(f"{endpoint}/{box}?restype=container", method="PUT", headers=headers)
    urllib.request.urlopen(made, timeout=20).close()
    text = (
        f"DefaultEndpointsProtocol=http;AccountName={AZURE['name']};AccountKey={AZURE['key']};BlobEndpoint={endpoint};"
    )
    return configured(repo, f"azure://{box}/some/where", {"connection_string": text})


class _Ssh:
    """An SFTP server over a folder, in a thread."""

    def __init__(self, folder: Path) -> None:
        import asyncssh

        self.folder, self.key = folder, asyncssh.generate_private_key("ssh-ed25519")
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.server = asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(20)
        self.port = self.server.get_port()

    async def _listen(self) -> Any:
        import asyncssh

        class Door(asyncssh.SSHServer):
            def begin_auth(self, username: str) -> bool:
                return True

            def password_auth_supported(self) -> bool:
                return True

            def validate_password(self, username: str, password: str) -> bool:
                return (username, password) == ("me", SECRET)

        root = str(self.folder).encode()
        return await asyncssh.listen(
            "127.0.0.1", 0, server_factory=Door, server_host_keys=[self.key],
            sftp_factory=lambda chan: asyncssh.SFTPServer(chan, chroot=root),
        )  # fmt: skip

    def known(self, home: Path) -> None:
        (home / ".ssh").mkdir(parents=True, exist_ok=True)
        public = self.key.export_public_key().decode().strip()
        (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}\n")

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)


@pytest.fixture
def ssh_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Ssh]:
    pytest.importorskip("asyncssh")
    (tmp_path / "far").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    server = _Ssh(tmp_path / "far")
    server.known(tmp_path / "home")
    yield server
    server.close()


def ssh(repo: Repository, server: _Ssh) -> Repository:
    return configured(
        repo, f"ssh://me@127.0.0.1:{server.port}/deep/store", {"password": SECRET, "allow_agent": "false"}
    )


@pytest.fixture(params=["folder", "s3", "ssh", "gs", pytest.param("azure", marks=[pytest.mark.peer, pytest.mark.soak])])
def shared(request: pytest.FixtureRequest, repo: Repository) -> Repository:
    """A repository with one kind of remote, data tracked and not yet pushed."""
    if request.param == "s3":
        repo = s3(repo, request.getfixturevalue("s3_server"))
    elif request.param == "gs":
        repo = gs(repo, request.getfixturevalue("s3_server"))
    elif request.param == "azure":
        repo = azure(repo, request.getfixturevalue("azure_server"))
    elif request.param == "ssh":
        repo = ssh(repo, request.getfixturevalue("ssh_server"))
    fill(repo.root / "data", FILES)
    fill(repo.root, {"single": b"one file"})
    snapshot.add(repo.root, Path("data"))
    snapshot.add(repo.root, Path("single"))
    return repo


def fresh(repo: Repository) -> None:
    shutil.rmtree(repo.cache)
    shutil.rmtree(repo.root / "data")
    (repo.root / "single").unlink()


def spoil(repo: Repository, name: Name, data: bytes) -> None:
    """Other bytes under a name of the remote, as a rotten disk would leave them."""
    far = remotes.of(repo)
    far.delete(name)
    file = repo.root / ".dvc" / "tmp" / "spoiled"
    file.write_bytes(data)
    original = remotes.verify
    try:
        remotes.verify = lambda *words: None
        if not isinstance(far, remotes.FolderRemote | remotes.StoreRemote):
            import holdfast.data.remotes_ssh as module

            module.verify = lambda *words: None
        far.put(name, str(file))
    finally:
        remotes.verify = original
        if not isinstance(far, remotes.FolderRemote | remotes.StoreRemote):
            module.verify = original
    close(far)


def close(far: Remote) -> None:
    getattr(far, "close", lambda: None)()


def test_what_is_pushed_comes_back_and_nothing_is_sent_twice(shared: Repository) -> None:
    moved = transfer.push(shared, verify=True)
    assert moved.objects == len(FILES) + 2
    assert transfer.push(shared).objects == 0
    fresh(shared)
    got, _ = transfer.pull(shared, [shared.root / "data" / "sub"])
    assert got.objects == 2 and content(shared.root / "data") == {"sub/b.bin": b"b"}
    got, _ = transfer.pull(shared)
    assert content(shared.root / "data") == FILES and (shared.root / "single").read_bytes() == b"one file"
    assert got.already == 1 and transfer.pull(shared)[0].objects == 0
    assert status.outs(shared) == []


def test_what_either_side_lacks_is_told(shared: Repository) -> None:
    names = {"data", "single", *(f"data/{name}" for name in FILES)}
    assert both_sides.compare(shared) == dict.fromkeys(names, "new")
    transfer.push(shared)
    assert both_sides.compare(shared) == {}
    far = remotes.of(shared)
    members = caches.of(shared).members(str(pointers.read(shared.root / "data.dvc", shared.root).outs[0].md5))
    far.delete(Name(members["a.bin"]))
    assert both_sides.compare(shared) == {"data/a.bin": "new"}
    Path(caches.of(shared).path(members["a.bin"])).unlink()
    assert both_sides.compare(shared, [shared.root / "single"]) == {}
    assert both_sides.compare(shared) == {"data/a.bin": "missing"}
    fresh(shared)
    far.delete(Name(hashing.md5_of(b"one file")))
    assert both_sides.compare(shared) == {"data": "deleted", "single": "missing"}
    close(far)


def test_a_push_that_breaks_off_leaves_no_manifest_and_is_taken_up(
    shared: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Name] = []
    made = remotes.of

    def limited(repo: Repository, name: str | None = None) -> Remote:
        far = made(repo, name)
        put = far.put

        def one(name: Name, file: str) -> None:
            # Several are under way at once, so a few more than these may get through.
            if len(sent) >= 2:
                raise Unavailable("the line is cut", hint="run again")
            put(name, file)
            sent.append(name)

        far.put = one  # type: ignore[method-assign]
        return far

    monkeypatch.setattr(remotes, "of", limited)
    with pytest.raises(Unavailable, match="cut"):
        transfer.push(shared)
    monkeypatch.setattr(remotes, "of", made)
    far = made(shared)
    there = set(far.all())
    assert there == set(sent) and not any(name.md5.endswith(".dir") for name in there)
    order: list[str] = []
    monkeypatch.setattr(remotes, "of", lambda repo, name=None: recording(made(repo, name), order))
    moved = transfer.push(shared)
    assert (moved.objects, moved.already) == (len(FILES) + 2 - len(sent), len(sent))
    assert order[-1].endswith(".dir") and not any(md5.endswith(".dir") for md5 in order[:-1])
    close(far)


def recording(far: Remote, order: list[str]) -> Remote:
    put = far.put

    def one(name: Name, file: str) -> None:
        put(name, file)
        order.append(name.md5)

    far.put = one  # type: ignore[method-assign]
    return far


def test_damage_on_the_remote_is_found_named_not_taken_and_mended(shared: Repository) -> None:
    transfer.push(shared)
    md5 = pointers.read(shared.root / "data.dvc", shared.root).outs[0].md5
    assert md5 is not None
    victim = Name(caches.of(shared).members(md5)["a.bin"])
    spoil(shared, victim, b"a" * 69_999 + b"b")
    with pytest.raises(Damaged, match=victim.md5):
        transfer.push(shared, verify=True)
    found = scrub.scrub(shared, also_remote=True)
    assert [bad.md5.rpartition(" ")[2] for bad in found.bad] == [victim.md5]
    assert found.bad[0].affects == ["data in the workspace"]
    kept = shared.root / "kept"
    shutil.copytree(shared.cache, kept)
    fresh(shared)
    with pytest.raises(Damaged):
        transfer.pull(shared)
    assert not caches.of(shared).has(victim.md5) and not (shared.root / "data" / "a.bin").exists()
    shutil.rmtree(shared.cache)
    kept.rename(shared.cache)
    mended = scrub.scrub(shared, also_remote=True, repair=True)
    assert [bad.repaired_from for bad in mended.bad] == ["the cache"]
    assert scrub.scrub(shared, also_remote=True).bad == []


def test_scrub_mends_the_cache_from_the_remote(shared: Repository) -> None:
    transfer.push(shared)
    cache = caches.of(shared)
    for md5 in cache.all():
        path = Path(cache.path(md5))
        if path.stat().st_size:
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.chmod(0o644)
            path.write_bytes(data)
    shutil.rmtree(shared.root / "data")
    found = scrub.scrub(shared, repair=True)
    assert len(found.bad) == len(FILES) + 1 and all(bad.repaired_from for bad in found.bad)
    assert scrub.scrub(shared).bad == []


def test_gc_of_the_remote_keeps_what_is_needed(shared: Repository) -> None:
    transfer.push(shared)
    old = snapshot.identify(shared.root / "single").md5
    fill(shared.root, {"single": b"second"})
    snapshot.add(shared.root, Path("single"))
    transfer.push(shared)
    swept = gc.collect(shared, cloud=True)
    assert any(old in name for name in swept.removed)
    fresh(shared)
    transfer.pull(shared)
    assert content(shared.root / "data") == FILES and (shared.root / "single").read_bytes() == b"second"
    far = remotes.of(shared)
    with pytest.raises(NotFound):
        transfer.receive(caches.of(shared), far, Name(old))
    close(far)


def test_two_remotes_each_hold_what_is_meant_for_them(repo: Repository) -> None:
    config = repo.dvc / "config"
    config.write_text(config.read_text() + "['remote \"other\"']\n    url = ../../second\n")
    (repo.dvc / "config.local").write_text("['remote \"third\"']\n    url = remote://other/inner  # below it\n")
    repo = repository.open_at(repo.root)
    fill(repo.root, {"a": b"a", "b": b"b"})
    for name in "ab":
        snapshot.add(repo.root, Path(name))
    pointer = repo.root / "b.dvc"
    pointer.write_text(pointer.read_text() + "  remote: other\n")
    transfer.push(repo)
    near, far = (set(caches.Cache(repo.root.parent / name).all()) for name in ("store", "second"))
    assert len(near) == len(far) == 1 and not near & far
    transfer.push(repo, remote="third")
    assert set(caches.Cache(repo.root.parent / "second" / "inner").all()) == near | far
    shutil.rmtree(repo.cache)
    transfer.fetch(repo)
    assert set(caches.of(repo).all()) == near | far
    with pytest.raises(NotFound, match="did you mean 'other'"):
        transfer.push(repo, remote="othr")


def test_keys_come_from_the_files_the_configuration_names(repo: Repository, s3_server: str, tmp_path: Path) -> None:
    repo = s3(repo, s3_server)
    url = repo.remote_options()[1]["url"]
    (tmp_path / "keys").write_text(
        f"[default]\naws_access_key_id = no\n[mine]\naws_access_key_id = me\naws_secret_access_key = {SECRET}\n"
    )
    (tmp_path / "aws").write_text("[profile mine]\nregion = us-east-1\n[profile sso]\nsso_session = x\n")
    files = {"credentialpath": str(tmp_path / "keys"), "configpath": str(tmp_path / "aws"), "endpointurl": s3_server}
    fill(repo.root, {"a": b"a"})
    snapshot.add(repo.root, Path("a"))
    assert transfer.push(configured(repo, url, {**files, "profile": "mine"})).objects == 1
    with pytest.raises(BadConfig, match="holds no keys"):
        transfer.push(configured(repo, url, {**files, "profile": "sso"}))
    with pytest.raises(NotFound, match="no AWS profile 'gone'"):
        transfer.push(configured(repo, url, {**files, "profile": "gone"}))
    (tmp_path / "keys").write_text(f"[mine]\naws_secret_access_key = {SECRET}\n{SECRET}\n[")
    with pytest.raises(BadConfig, match="INI") as caught:
        transfer.push(configured(repo, url, {**files, "profile": "mine"}))
    assert SECRET not in str(caught.value)


OPTIONS: list[tuple[str, dict[str, str], str]] = [
    ("s3://b/p", {"grant_read": "x"}, "grant_read"),
    ("s3://b/p", {"sse_customer_key": SECRET}, "sse_customer_key"),
    ("s3://b/p", {"read_timeout": "soon"}, "seconds"),
    ("s3://b/p", {"ssl_verify": "/nowhere.pem"}, "ssl_verify"),
    ("s3://b/p", {"version_aware": "true"}, "version_aware"),
    ("gs://b/p", {"secret": SECRET}, "secret"),
    ("azure://c/p", {"connection_string": SECRET}, "connection_string"),
    ("azure://c/p", {}, "Account must be specified"),
    ("azure://c/p", {"account_name": "a", "account_key": "!"}, "Invalid Access Key"),
    ("azure://c@a.blob.core.windows.net/p", {"account_key": SECRET}, "names no bucket"),
    ("gs://b/p", {"credentialpath": "/nowhere.json"}, "Unable to open"),
    ("gs:///p", {}, "names no bucket"),
    ("http://h/p", {"auth": "digest", "password": SECRET}, "digest"),
    ("http://h/p", {"auth": "basic", "ask_password": "true"}, "terminal"),
    ("http://h/p", {"method": "PATCH"}, "PATCH"),
    ("hdfs://h/p", {}, "hdfs"),
    ("ssh://h", {}, "folder"),
    ("ssh://h/p", {"port": "many"}, "numbers"),
    ("ssh://h/p", {"gss_kex": "x"}, "gss_kex"),
    ("remote://r/x", {}, "itself"),
]


@pytest.mark.parametrize(("url", "options", "words"), OPTIONS)
def test_an_option_that_cannot_be_honoured_is_refused(
    repo: Repository, url: str, options: dict[str, str], words: str
) -> None:
    with pytest.raises(BadConfig, match=words) as caught:
        remotes.of(configured(repo, url, options))
    assert caught.value.hint and SECRET not in str(caught.value)


def test_google_and_azure_options_reach_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways of signing in that no emulator takes: what is handed to the library is looked at."""
    import obstore.store

    seen: dict[str, Any] = {}

    def take(name: str, **config: Any) -> str:
        seen.clear()
        seen.update(config, name=name)
        return "store"

    monkeypatch.setattr(obstore.store, "AzureStore", take)
    monkeypatch.setattr(obstore.store, "GCSStore", take)
    text = "DefaultEndpointsProtocol=http;AccountName=acc;AccountKey=k==;BlobEndpoint=http://127.0.0.1:1/acc"
    assert stores.open_store("r", "azure://box/in/side", {"connection_string": text}) == ("store", "in/side")
    assert (seen["account_name"], seen["account_key"], seen["name"]) == ("acc", "k==", "box")
    assert seen["endpoint"] == "http://127.0.0.1:1/acc" and seen["client_options"]["allow_http"]
    stores.open_store("r", "azure://box", {"account_name": "acc", "sas_token": "t"})
    assert seen["sas_key"] == "t"
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", "AccountName=far;AccountKey=k==;EndpointSuffix=core.chinacloudapi.cn"
    )
    stores.open_store("r", "azure://box", {})
    assert (seen["account_name"], seen["endpoint"]) == ("far", "https://far.blob.core.chinacloudapi.cn")
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "env")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "k==")
    stores.open_store("r", "azure://box", {})
    assert (seen["account_name"], seen["account_key"]) == ("env", "k==")
    stores.open_store("r", "azure://box", {"account_name": "acc"})
    assert seen["account_name"] == "acc" and "account_key" not in seen
    stores.open_store("r", "gs://box/p", {"credentialpath": "~/k.json"})
    assert seen["application_credentials"] == os.path.expanduser("~/k.json")
    stores.open_store("r", "gs://box/p", {"allow_anonymous_login": "true", "endpointurl": "http://127.0.0.1:1"})
    assert seen["skip_signature"] and seen["base_url"] == "http://127.0.0.1:1"


def test_an_unknown_host_key_a_wrong_password_and_a_dead_host_are_told_apart(
    repo: Repository, ssh_server: _Ssh, tmp_path: Path
) -> None:
    def push(**options: str) -> str:
        far = configured(
            repo, f"ssh://127.0.0.1:{ssh_server.port}/s", {"allow_agent": "false", "user": "me", **options}
        )
        with pytest.raises(HoldfastError) as caught:
            transfer.push(far)
        assert SECRET not in str(caught.value) and "wrong-secret" not in str(caught.value)
        return str(caught.value)

    fill(repo.root, {"a": b"a"})
    snapshot.add(repo.root, Path("a"))
    assert "refuses this user" in push(password="wrong-secret")
    (tmp_path / "home" / ".ssh" / "known_hosts").write_text("")
    assert "is not known" in push(password=SECRET)
    ssh_server.close()
    assert "cannot be reached" in push(password=SECRET, port="1")


def test_secrets_are_in_no_error_and_no_output(repo: Repository) -> None:
    dead = configured(
        repo, "s3://bucket/p", {"access_key_id": "me", "secret_access_key": SECRET, "endpointurl": "http://127.0.0.1:1"}
    )
    fill(repo.root, {"a": b"a"})
    snapshot.add(repo.root, Path("a"))
    far = remotes.of(dead)
    assert isinstance(far, remotes.StoreRemote)
    assert remotes.without_secrets(f"https://u:{SECRET}@h/p?sig={SECRET}") == "https://h/p?…"
    assert SECRET not in repr(far) and SECRET not in far.label


def test_a_remote_that_is_none_is_told_though_nothing_is_missing(shared: Repository) -> None:
    for verb in (transfer.push, transfer.fetch, transfer.pull):
        with pytest.raises(NotFound, match="nowhere"):
            verb(shared, remote="nowhere")
