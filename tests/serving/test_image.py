from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from holdfast.cli.image import image as image_command
from holdfast.cli.image import manifests
from holdfast.core.errors import BadInput, Refused
from holdfast.core.records import FileRef
from holdfast.registry import package as packages
from holdfast.registry import versions
from holdfast.serving import image
from holdfast.workspace import Workspace
from tests.serving.world import add_package, arm, peer_environment, put_release, serving

BASE = "python@sha256:" + "a" * 64


@pytest.mark.parametrize("base", ["python:3.11-slim", "python@sha256:abc", "python:3.11\nRUN rm", BASE + "\nRUN x"])
def test_the_base_must_be_pinned(base: str) -> None:
    with pytest.raises(BadInput):
        image.dockerfile(base=base, service="toy", local_wheel=None, hashed=False)


def test_the_dockerfile_runs_as_nobody_special_and_never_through_a_shell() -> None:
    text = image.dockerfile(base=BASE, service="toy", local_wheel="holdfast-0.1-py3-none-any.whl", hashed=True)
    for line in text.splitlines():
        if line.startswith(("RUN ", "CMD ")):
            assert isinstance(json.loads(line[4:]), list)
    assert f"USER {image.USER}" in text and "HEALTHCHECK" in text and "--require-hashes" in text
    with pytest.raises(BadInput):
        image.dockerfile(base=BASE, service="toy; rm -rf /", local_wheel=None, hashed=False)


def folder_digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_the_context_is_reproducible_and_its_store_serves_the_version(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = add_package(workspace)
    versions.create(workspace.ledger, "toy", content=content, run_id=None, at=1, actor="me")
    monkeypatch.chdir(workspace.root)
    for name in ("one", "two"):
        done = CliRunner().invoke(
            image_command, ["toy@1", str(tmp_path / name), "--base", BASE], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
    assert folder_digest(tmp_path / "one") == folder_digest(tmp_path / "two")
    pins = (tmp_path / "one" / "requirements.lock").read_text().splitlines()
    assert all("==" in p for p in pins) and any(p.startswith("onnxruntime==") for p in pins)
    assert not any(p.startswith(("pytest", "scikit-learn")) for p in pins)
    home = tmp_path / "one" / "workspace" / ".holdfast"
    before = folder_digest(home)
    with Workspace.open(tmp_path / "one" / "workspace") as baked, serving(baked, "--replicas", "1") as server:
        server.until_version(1)
        assert server.predict({"a": 1.0, "b": 0.0})[0] == 200
    # A container's root is read-only: nothing is written but on its volumes (and the log this test keeps).
    written = {n for n, sha in folder_digest(home).items() if before.get(n) != sha}
    volumes = [Path(place).name for _, place in image._VOLUMES]
    assert written and {n.split("/")[0] for n in written} <= {*volumes, "logs"}, written


HASH = "--hash=sha256:" + "c" * 64


def test_a_lock_is_only_taken_whole() -> None:
    good = f"# made by a tool\nmsgspec==0.19.0 \\\n    {HASH}\nuvloop==0.21.0 ; sys_platform != 'win32' {HASH}\n"
    image.check_lock(good, ["msgspec", "uvloop"])
    with pytest.raises(BadInput, match="numpy"):
        image.check_lock(good, ["msgspec", "numpy"])
    for line in ("msgspec==0.19.0", "msgspec>=0.19 " + HASH, "-e .", "https://example.org/x.whl"):
        with pytest.raises(BadInput, match="not pinned"):
            image.check_lock(good + line + "\n", ["msgspec"])
    made = image.lock({"b": "2", "a": "1"}, {"a": ["c" * 64], "b": ["d" * 64]})
    image.check_lock(made, ["a", "b"])


def test_a_lock_that_lacks_something_writes_no_context(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions.create(workspace.ledger, "toy", content=add_package(workspace), run_id=None, at=1, actor="me")
    monkeypatch.chdir(workspace.root)
    (tmp_path / "short.lock").write_text(f"msgspec==0.19.0 {HASH}\n")
    words = ["toy@1", str(tmp_path / "out"), "--base", BASE, "--lock", str(tmp_path / "short.lock")]
    assert isinstance(CliRunner().invoke(image_command, words).exception, BadInput)
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_environment_gets_no_image_that_could_not_serve_it(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = add_package(workspace, format="skops", environment={"packages": {"scikit-learn": "0.1.0"}})
    versions.create(workspace.ledger, "toy", content=content, run_id=None, at=1, actor="me")
    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(image_command, ["toy@1", str(tmp_path / "out"), "--base", BASE])
    assert isinstance(done.exception, Refused) and "0.1.0" in done.exception.message
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_code_is_not_put_into_an_image(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"cpickle"
    ref = FileRef(sha256=workspace.objects.put(data), size=len(data))
    signed = packages.sign_file(workspace.objects, {"m.pkl": ref}, ref.sha256, workspace.secret("package"))
    content = add_package(workspace, format="pickle", model_file="m.pkl", files=signed)
    versions.create(workspace.ledger, "toy", content=content, run_id=None, at=1, actor="me")
    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(image_command, ["toy@1", str(tmp_path / "out"), "--base", BASE])
    assert isinstance(done.exception, Refused) and "safe format" in (done.exception.hint or "")


@pytest.mark.peer
def test_hashes_come_from_the_index() -> None:
    from holdfast.serving import environment

    pins = {k: v for k, v in environment.closure(["click"]).items() if k == "click"}
    image.check_lock(image.lock(pins, environment.hashes(pins)), pins)


def written(tmp_path: Path) -> dict[str, Any]:
    done = CliRunner().invoke(
        manifests, ["fraud_detection", str(tmp_path), "--image", "r.example/fraud@sha256:" + "b" * 64]
    )
    assert done.exit_code == 0, done.output
    return {p.name: YAML(typ="safe").load(p.read_text()) for p in tmp_path.glob("*.yaml")}


def test_manifests_keep_replicas_up_while_they_change(tmp_path: Path) -> None:
    files = written(tmp_path)
    assert set(files) == {"deployment.yaml", "service.yaml", "autoscaler.yaml", "disruption.yaml", "compose.yaml"}
    spec = files["deployment.yaml"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    container = spec["template"]["spec"]["containers"][0]
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert (
        spec["template"]["spec"]["securityContext"]["runAsNonRoot"]
        and container["securityContext"]["readOnlyRootFilesystem"]
    )
    labels = spec["template"]["metadata"]["labels"]
    assert (
        files["service.yaml"]["spec"]["selector"]
        == labels
        == files["disruption.yaml"]["spec"]["selector"]["matchLabels"]
    )
    assert files["autoscaler.yaml"]["spec"]["scaleTargetRef"]["name"] == files["deployment.yaml"]["metadata"]["name"]
    assert "token" in json.dumps(container["env"][0]["valueFrom"]["secretKeyRef"])
    balancer = (tmp_path / "haproxy.cfg").read_text()
    frontend = balancer[balancer.index("frontend in") : balancer.index("backend serve")]
    # Only a frontend makes ids; made anywhere else they are empty, and every request would be refused.
    assert "unique-id-format" in frontend and "set-header X-Holdfast-Prediction-Id" in frontend
    assert "httpchk GET /health/ready" in balancer


class Asking:
    """Clients that ask one address until told to stop, and every answer that was not a logged prediction."""

    def __init__(self, address: str, token: str, count: int = 3) -> None:
        self.failures: list[Any] = []
        self.ids: list[str] = []
        self._stop = threading.Event()
        self._request = urllib.request.Request(
            address + "/predict", b'{"rows": [{"a": 0.5, "b": 0.25}]}', {"authorization": f"Bearer {token}"}
        )
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                with urllib.request.urlopen(self._request, timeout=30) as answer:
                    (told,) = json.loads(answer.read())["predictions"]
            except OSError as problem:
                self.failures.append(repr(problem))
            else:
                self.ids.append(told["id"])

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed: its configuration is not run")
def test_haproxy_before_replicas_that_come_and_go_fails_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The written configuration, with two addresses in the place of the names a container network would give."""
    token = "hf_one"
    monkeypatch.setenv("HOLDFAST_SERVE_TOKEN", token)
    monkeypatch.setenv("HOLDFAST_SERVE_HOSTS", "fraud-detection,localhost")
    with contextlib.ExitStack() as stack:
        servers = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "holdfast.toml").write_text("")
            workspace = stack.enter_context(Workspace.open(tmp_path / name))
            put_release(workspace, 1, arm(1, add_package(workspace)))
            servers.append(stack.enter_context(serving(workspace, "--replicas", "1", "--host", "0.0.0.0")))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        text = re.sub(r"(?m)^  server-template .*$", "".join(
            f"  server s{i} 127.0.0.1:{s.port} check inter 200ms\n" for i, s in enumerate(servers)
        ), image.haproxy_config())  # fmt: skip
        config = tmp_path / "haproxy.cfg"
        config.write_text(text.replace(f"bind :{image.PORT}", f"bind 127.0.0.1:{port}"))
        checked = subprocess.run(["haproxy", "-c", "-f", config], capture_output=True, text=True, check=False)
        assert checked.returncode == 0 and "WARNING" not in checked.stderr, checked.stderr
        balancer = subprocess.Popen(["haproxy", "-db", "-f", config], stderr=subprocess.DEVNULL)
        stack.callback(balancer.wait)
        stack.callback(balancer.kill)
        address = f"http://127.0.0.1:{port}"
        servers[0].until(lambda: _ready(address))
        with Asking(address, token) as asking:
            for server in servers:
                (victim,) = server.state["replicas"]
                os.kill(victim, signal.SIGKILL)
                # The other may only be killed once this one answers: two dead replicas are no service.
                server.until(lambda server=server, victim=victim: server.state["replicas"] not in ([], [victim]))
                server.until(lambda server=server: server.ask("GET", "/health/ready")[0] == 200)
                time.sleep(1.0)  # for the balancer to see it too
            servers[1].process.send_signal(signal.SIGTERM)  # as a container is stopped
            servers[1].process.wait(30)
            time.sleep(0.5)
        assert not asking.failures, asking.failures[:3]
        assert len(asking.ids) > 20 and len(set(asking.ids)) == len(asking.ids)


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(address + "/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.parametrize("name", ["", "-", "x" * 80])
def test_names_kubernetes_does_not_take(name: str) -> None:
    with pytest.raises(BadInput):
        image.dns_name(name)


@pytest.mark.peer
def test_manifests_are_valid_kubernetes(tmp_path: Path) -> None:
    validate = peer_environment("k8s", "kubernetes_validate").parent / "kubernetes-validate"
    written(tmp_path)
    files = [str(p) for p in tmp_path.glob("*.yaml") if p.name != "compose.yaml"]
    done = subprocess.run([validate, "--strict", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "broken.yaml"
    broken.write_text((tmp_path / "deployment.yaml").read_text().replace("maxSurge", "maxSurgery"))
    assert subprocess.run([validate, "--strict", broken], capture_output=True, check=False).returncode


COMPOSE = """
import importlib.resources, json, sys
import jsonschema
text = (importlib.resources.files("compose") / "config" / "compose_spec.json").read_text()
given = json.load(sys.stdin)
found = [f"{'/'.join(map(str, e.path))}: {e.message}" for e in jsonschema.Draft7Validator(json.loads(text)).iter_errors(given)]
print("\\n".join(found))
sys.exit(bool(found))
"""


@pytest.mark.peer
def test_the_compose_file_is_a_valid_one(tmp_path: Path) -> None:
    # Only the schema is wanted of that package, and its old dependencies cannot be built any more.
    python = peer_environment("compose", "jsonschema, compose", "--no-deps")

    def problems(given: Any) -> str:
        return subprocess.run(
            [python, "-c", COMPOSE], input=json.dumps(given), capture_output=True, text=True, check=False
        ).stdout.strip()

    given = written(tmp_path)["compose.yaml"]
    given.pop("name")  # newer than that schema
    assert problems(given) == ""
    given["services"]["serve"]["read_onyl"] = True
    assert "read_onyl" in problems(given)
