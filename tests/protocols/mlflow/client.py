"""A plain HTTP caller of a control plane that runs in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from holdfast.server.access import Access
from holdfast.server.controlplane import application
from holdfast.workspace import Workspace

BASE = "/api/2.0/mlflow"


class Api:
    """Calls by short path; a failed call raises AssertionError unless ``expect`` says what is expected."""

    def __init__(self, http: TestClient, workspace: Workspace) -> None:
        self.http = http
        self.workspace = workspace

    def get(self, path: str, expect: int = 200, /, **query: Any) -> dict[str, Any]:
        return self._read(self.http.get(self._url(path), params=query), expect)

    def post(
        self, path: str, expect: int = 200, /, headers: dict[str, str] | None = None, **body: Any
    ) -> dict[str, Any]:
        return self._read(self.http.post(self._url(path), json=body, headers=headers), expect)

    def send(self, method: str, path: str, expect: int = 200, /, **body: Any) -> dict[str, Any]:
        return self._read(self.http.request(method, self._url(path), json=body), expect)

    def _url(self, path: str) -> str:
        return path if path.startswith("/") else f"{BASE}/{path}"

    @staticmethod
    def _read(response: Any, expect: int) -> dict[str, Any]:
        assert response.status_code == expect, (response.status_code, response.text)
        return response.json()  # type: ignore[no-any-return]

    # the few calls nearly every test makes

    def experiment(self, name: str = "e", **more: Any) -> str:
        return str(self.post("experiments/create", name=name, **more)["experiment_id"])

    def run(self, experiment_id: str = "0", **more: Any) -> str:
        return str(self.post("runs/create", experiment_id=experiment_id, **more)["run"]["info"]["run_id"])

    def upload(self, path: str, data: bytes, status: int = 200) -> None:
        response = self.http.put(f"/api/2.0/mlflow-artifacts/artifacts/{path}", content=data)
        assert response.status_code == status, response.text

    def model(self, data: bytes = b"model", name: str = "fraud", **more: Any) -> int:
        """Upload a one-file model to a new run and register it; the version."""
        run_id = self.run()
        self.upload(f"0/{run_id}/artifacts/model/MLmodel", data)
        if not self.get("registered-models/search", filter=f"name = '{name}'"):
            self.post("registered-models/create", name=name)
        source = f"mlflow-artifacts:/0/{run_id}/artifacts/model"
        made = self.post("model-versions/create", name=name, source=source, run_id=run_id, **more)
        return int(made["model_version"]["version"])


@contextmanager
def serving(root: Path, *, overrides: dict[str, Any] | None = None, access: Access | None = None) -> Iterator[Api]:
    """A control plane over the workspace at ``root``."""
    (root / "holdfast.toml").touch()
    with Workspace.open(root, overrides=overrides) as workspace:
        app = application(workspace, access=access)
        with TestClient(app, base_url="http://127.0.0.1:5000", raise_server_exceptions=False) as http:  # type: ignore[arg-type]
            yield Api(http, workspace)
