"""kill -9 of the server under load: what was acknowledged is there after the restart, and nothing twice."""

import os
import random
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.protocols.mlflow.servers import Server

SEED = int(os.environ.get("HOLDFAST_SOAK_SEED", "411"))
KILLS = int(os.environ.get("HOLDFAST_SOAK_KILLS", "500"))


class Writer(threading.Thread):
    """Logs and registers without end; keeps what was acknowledged. A call cut off is repeated under its request id, as
    the spool of ``holdfast run`` does."""

    def __init__(self, server: Server, name: str) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.label = name
        self.done = threading.Event()
        self.points: list[tuple[str, float]] = []
        self.versions: list[int] = []
        self.runs: list[str] = []

    def call(self, http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
        headers = {"X-Holdfast-Request-Id": uuid.uuid4().hex}
        while True:
            try:
                response = http.post(f"{self.server.url}/api/2.0/mlflow/{path}", json=body, headers=headers)
            except httpx.TransportError:
                if self.done.is_set():
                    raise
                time.sleep(0.02)
                continue
            assert response.status_code == 200, response.text
            return response.json()  # type: ignore[no-any-return]

    def run(self) -> None:
        with httpx.Client(timeout=30) as http:
            try:
                while not self.done.is_set():
                    run_id = self.call(http, "runs/create", experiment_id="0")["run"]["info"]["run_id"]
                    self.runs.append(run_id)
                    for i in range(5):
                        self.call(http, "runs/log-metric", run_id=run_id, key="m", value=float(i), timestamp=i, step=i)
                        self.points.append((run_id, float(i)))
                    made = self.call(http, "model-versions/create", name="m", source=f"s3://b/{self.label}")
                    self.versions.append(int(made["model_version"]["version"]))
            except httpx.TransportError:
                return


# At length: HOLDFAST_SOAK_KILLS kills (500).
@pytest.mark.parametrize("kills", [6, pytest.param(KILLS, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])])
def test_nothing_acknowledged_is_lost_and_nothing_happens_twice(tmp_path: Path, kills: int) -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    server = Server(tmp_path)
    server.start()
    httpx.post(f"{server.url}/api/2.0/mlflow/registered-models/create", json={"name": "m"}).raise_for_status()
    writers = [Writer(server, f"w{i}") for i in range(3)]
    for writer in writers:
        writer.start()
    for _ in range(kills):
        time.sleep(dice.uniform(0.05, 0.5))
        server.kill()
        server.start()
    time.sleep(0.3)
    for writer in writers:
        writer.done.set()
    for writer in writers:
        writer.join(60)
    base = f"{server.url}/api/2.0/mlflow"
    with httpx.Client(timeout=60) as http:
        numbers: list[int] = []
        for writer in writers:
            assert writer.points
            for run_id in writer.runs:
                found = http.get(f"{base}/metrics/get-history", params={"run_id": run_id, "metric_key": "m"}).json()
                logged = [p["value"] for p in found.get("metrics", [])]
                acknowledged = [v for r, v in writer.points if r == run_id]
                assert logged[: len(acknowledged)] == acknowledged and len(logged) == len(set(logged))
            numbers += writer.versions
        assert len(numbers) == len(set(numbers)), "a number was given twice"
        stored = http.get(f"{base}/model-versions/search").json()["model_versions"]
        known = {int(v["version"]) for v in stored}
        assert set(numbers) <= known and known == set(range(1, len(known) + 1))
        # One request of each writer may have been under way at the end; every other effect was acknowledged once.
        assert len(known) - len(numbers) <= len(writers)
        runs = http.post(f"{base}/runs/search", json={"experiment_ids": ["0"], "max_results": 50_000}).json()["runs"]
        assert 0 <= len(runs) - sum(len(w.runs) for w in writers) <= len(writers)
    server.stop()
