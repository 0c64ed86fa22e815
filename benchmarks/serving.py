"""Serving, side by side in one run: Holdfast, the bare Granian + ONNX Runtime stack, BentoML, `mlflow models serve`.

Same estimator, same rows, one worker each, each peer in its own virtual environment. Read ratios, not absolute numbers:
load generator and servers share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.peers.environments import python_of

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".cache" / "peers"
FEATURES = 20
NAMES = [f"x{i}" for i in range(FEATURES)]

# The same text in every environment, so that each library fits its own copy of the same estimator.
FIT = f"""
import numpy as np
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
X, y = make_classification(4000, {FEATURES}, n_informative=10, random_state=7)
forest = lambda: RandomForestClassifier(100, max_depth=10, random_state=7, n_jobs=1).fit(X, y)
linear = lambda: LogisticRegression(max_iter=500).fit(X, y)
"""

BENTO = (
    FIT
    + """
import os, bentoml
KIND = os.environ["BENCH_KIND"]
@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 1000}, logging={"access": {"enabled": False}})
class Bench:
    def __init__(self):
        self.model = forest() if KIND == "forest" else linear()
    @bentoml.api
    def predict(self, rows: list[list[float]]) -> list[float]:
        return self.model.predict_proba(np.array(rows))[:, 1].tolist()
"""
)

MLFLOW = (
    FIT
    + """
import sys, mlflow
class Proba(mlflow.pyfunc.PythonModel):
    def __init__(self, model): self.model = model
    def predict(self, context, model_input, params=None): return self.model.predict_proba(model_input)[:, 1]
model = forest() if sys.argv[1] == "forest" else linear()
mlflow.pyfunc.save_model(sys.argv[2], python_model=Proba(model), pip_requirements=[])
"""
)

GRANIAN = """
import os, msgspec, numpy as np, onnxruntime
options = onnxruntime.SessionOptions(); options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
kind = np.float64 if "double" in session.get_inputs()[0].type else np.float32
output = [o.name for o in session.get_outputs() if o.type in ("tensor(float)", "tensor(double)")][-1]
class Body(msgspec.Struct):
    rows: list[list[float]]
decode, encode = msgspec.json.Decoder(Body).decode, msgspec.json.encode
class App:
    async def __rsgi__(self, scope, proto):
        rows = decode(await proto()).rows
        scores = session.run([output], {name: np.array(rows, dtype=kind)})[0][:, -1]
        proto.response_bytes(200, [("content-type", "application/json")], encode(scores.tolist()))
app = App()
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def rss(pid: int) -> float:
    """MB of a process and everything below it, each page of shared memory once per process."""
    import psutil

    process = psutil.Process(pid)
    return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)]) / 1e6


def cpu(pid: int) -> float:
    """Seconds of CPU a process and everything below it have used."""
    import psutil

    process = psutil.Process(pid)
    return sum(sum(p.cpu_times()[:2]) for p in [process, *process.children(recursive=True)])


def replica_rss(folder: Path) -> float:
    """MB of the largest replica of the `holdfast serve` that runs in ``folder``."""
    import psutil

    told = json.loads((folder / ".holdfast" / "run" / "bench-production.json").read_text())
    return max(psutil.Process(pid).memory_info().rss for pid in told["replicas"]) / 1e6


@contextlib.contextmanager
def running(
    argv: list[str], port: int, path: str, body: str, *, cwd: Path, env: dict[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """Start a server, wait for its first good answer, stop it with everything below it."""
    begun = time.perf_counter()
    with (cwd / "server.log").open("ab") as log:
        process = subprocess.Popen(
            argv, cwd=cwd, env={**os.environ, **(env or {})}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", body.encode(), {"content-type": "application/json"}
        )
        while True:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    first = answer.read()
                break
            except urllib.error.HTTPError as refused:
                if refused.code == 500:
                    raise SystemExit(f"{argv[0]} fails:\n" + (cwd / "server.log").read_text()[-3000:]) from None
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            if process.poll() is not None or time.perf_counter() - begun > 120:
                raise SystemExit(f"{argv[0]} does not answer:\n" + (cwd / "server.log").read_text()[-3000:])
            time.sleep(0.02)
        yield {"pid": process.pid, "cold_s": round(time.perf_counter() - begun, 2), "first": first[:120].decode()}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def load(
    port: int, path: str, body: str, *, connections: int, seconds: float, rate: float | None = None
) -> dict[str, Any]:
    options = {"port": port, "path": path, "body": body, "connections": connections, "seconds": seconds, "rate": rate}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._load", json.dumps(options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def estimator(kind: str) -> tuple[Any, Any]:
    scope: dict[str, Any] = {}
    exec(FIT, scope)
    return scope["forest" if kind == "forest" else "linear"](), scope["X"]


def project(folder: Path, kind: str, *, compiled: bool) -> Path:
    """A workspace with one released version; the path of its ONNX file, where compiled."""
    from holdfast import formats
    from holdfast.core.records import Arm, FieldSpec, FileRef, Package
    from holdfast.registry import package as packages
    from holdfast.workspace import Workspace

    model, X = estimator(kind)  # noqa: N806
    folder.mkdir(parents=True)
    (folder / "holdfast.toml").write_text("")
    saved = formats.save(model, folder / "model", sample=X, task="binary", columns=NAMES)
    if compiled and saved.format != "onnx":
        raise SystemExit(f"the {kind} model was not compiled: {saved.equivalence}")
    name = saved.model_file if compiled else saved.original_file
    assert name is not None
    with Workspace.open(folder) as workspace:
        data = (folder / "model" / name).read_bytes()
        specs = [FieldSpec(name=n, dtype="float64", nullable=False, low=-50.0, high=50.0) for n in NAMES]
        package = Package(
            name="bench", format=saved.format if compiled else "skops", task="binary", model_file=name, inputs=specs, request=specs,
            files={name: FileRef(sha256=workspace.objects.put(data), size=len(data))}, classes=saved.classes, threshold=0.5,
            outputs=[FieldSpec(name="score", dtype="float64")],
        )  # fmt: skip
        put(workspace, champion=Arm(version=1, content=packages.store(workspace.objects, package)))
    return folder / "model" / name


def put(workspace: Any, *, sequence: int = 1, **arms: Any) -> None:
    """Write a release of these arms, as a deployment does."""
    from holdfast.core.records import Release
    from holdfast.serving import release_file

    release = Release(service="bench", environment="production", model="bench", sequence=sequence, **arms)
    release_file.write(workspace.home / "releases", release, workspace.secret("release"))


def live_release(workspace: Any) -> Any:
    """The release in force."""
    from holdfast.serving import release_file

    live = release_file.read(workspace.home / "releases", "bench", "production", workspace.secret("release"))
    assert live is not None and live.champion is not None
    return live


def versions(workspace: Any, n: int) -> list[Any]:
    """The champion and ``n`` more arms with the same model under another threshold: each is fetched, verified, loaded and
    warmed anew."""
    import msgspec

    from holdfast.core.records import Arm
    from holdfast.registry import package as packages

    champion = live_release(workspace).champion
    package = packages.load(workspace.objects, champion.content)
    more = []
    for i in range(1, n + 1):
        other = msgspec.structs.replace(package, threshold=package.threshold + i / 1000)
        more.append(Arm(version=champion.version + i, content=packages.store(workspace.objects, other)))
    return [champion, *more]


def rows(n: int) -> list[list[float]]:
    _, X = estimator("linear")  # noqa: N806
    values: list[list[float]] = X[:n].round(6).tolist()
    return values


class System:
    """One server under test: how to start it, where and how to ask it."""

    def __init__(
        self,
        name: str,
        kind: str,
        argv: list[str],
        cwd: Path,
        *,
        port: int,
        path: str,
        env: dict[str, str] | None = None,
    ) -> None:
        self.name, self.kind, self.argv, self.cwd, self.port, self.path, self.env = (
            name,
            kind,
            argv,
            cwd,
            port,
            path,
            env,
        )

    def body(self, n: int) -> str:
        values = rows(n)
        if self.path == "/invocations":
            return json.dumps({"dataframe_split": {"columns": NAMES, "data": values}})
        if self.name.startswith("holdfast"):
            return json.dumps({"rows": [dict(zip(NAMES, r, strict=True)) for r in values]})
        return json.dumps({"rows": values})


def systems(work: Path, kinds: list[str], peers: list[str]) -> Iterator[System]:
    for kind in kinds:
        compiled = project(work / f"onnx-{kind}", kind, compiled=True)
        holdfast = [sys.executable, "-m", "holdfast.cli.main", "serve", "bench"]

        def ours(
            name: str,
            folder: Path,
            *options: str,
            log: str = "buffered",
            replicas: str = "1",
            kind: str = kind,
            argv: list[str] = holdfast,
        ) -> System:
            port = free_port()
            command = [*argv, "--port", str(port), "--replicas", replicas, "--log", log, *options]
            return System(name, kind, command, folder, port=port, path="/predict")

        yield ours("holdfast", work / f"onnx-{kind}")
        if kind == "forest":
            yield ours("holdfast durable", work / f"onnx-{kind}", log="durable")
            yield ours("holdfast 2 replicas + balancer", work / f"onnx-{kind}", replicas="2")
            project(work / f"skl-{kind}", kind, compiled=False)
            yield ours("holdfast, kept in scikit-learn", work / f"skl-{kind}")
        folder = work / f"peers-{kind}"
        folder.mkdir()
        if "granian" in peers:
            (folder / "bare.py").write_text(GRANIAN)
            port = free_port()
            argv = [
                str(PEERS / "granian/bin/granian"),
                "--interface",
                "rsgi",
                "--port",
                str(port),
                "--no-access-log",
                "bare:app",
            ]
            yield System(
                "granian + onnxruntime, bare",
                kind,
                argv,
                folder,
                port=port,
                path="/",
                env={"BENCH_MODEL": str(compiled), "ORT_DISABLE_TELEMETRY": "1"},
            )
        if "bentoml" in peers:
            (folder / "service.py").write_text(BENTO)
            port = free_port()
            argv = [
                str(PEERS / "bentoml/bin/bentoml"),
                "serve",
                "service:Bench",
                "--port",
                str(port),
                "--host",
                "127.0.0.1",
            ]
            env = {"BENCH_KIND": kind, "BENTOML_HOME": str(folder), "BENTOML_DO_NOT_TRACK": "1"}
            yield System("bentoml", kind, argv, folder, port=port, path="/predict", env=env)
        if "mlflow" in peers:
            (folder / "save.py").write_text(MLFLOW)
            python = PEERS / "mlflow/bin/python"
            quiet = {"env": {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}, "capture_output": True}
            subprocess.run([python, "save.py", kind, "model"], cwd=folder, check=True, **quiet)  # type: ignore[call-overload]
            port = free_port()
            argv = [
                str(PEERS / "mlflow/bin/mlflow"),
                "models",
                "serve",
                "-m",
                "model",
                "-p",
                str(port),
                "--env-manager",
                "local",
            ]
            env = {"PATH": f"{PEERS / 'mlflow/bin'}:{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
            yield System("mlflow", kind, argv, folder, port=port, path="/invocations", env=env)


def ready_peers(wanted: list[str]) -> list[str]:
    """The peers whose environments are there or can be made."""
    out = []
    for name in wanted:
        try:
            python_of(name)
        except subprocess.CalledProcessError as problem:
            print(f"{name} cannot be installed here and is left out: {problem}", file=sys.stderr)
        else:
            out.append(name)
    return out


def measure(system: System, seconds: float) -> dict[str, Any]:
    one = system.body(1)
    with running(system.argv, system.port, system.path, one, cwd=system.cwd, env=system.env) as server:
        load(system.port, system.path, one, connections=8, seconds=min(1.0, seconds))
        result: dict[str, Any] = {"system": system.name, "model": system.kind, "cold_s": server["cold_s"]}
        result["c1"] = load(system.port, system.path, one, connections=1, seconds=seconds)
        before = cpu(server["pid"])
        result["c64"] = load(system.port, system.path, one, connections=64, seconds=seconds)
        result["cpu_us"] = round((cpu(server["pid"]) - before) / max(result["c64"]["answered"], 1) * 1e6, 1)
        if system.kind == "forest":
            result["rows100"] = load(system.port, system.path, system.body(100), connections=16, seconds=seconds)
        result["rate60"] = load(
            system.port, system.path, one, connections=64, seconds=seconds, rate=max(result["c64"]["rps"] * 0.6, 1.0)
        )
        result["rss_mb"] = round(rss(server["pid"]), 0)
        if system.name.startswith("holdfast"):
            result["replica_mb"] = round(replica_rss(system.cwd), 0)
    return result


def disturbed(system: System, rate: float, seconds: float) -> dict[str, Any]:
    """One replica at a fixed rate: undisturbed, with a shadow, and while a new version takes over every two seconds."""
    from holdfast.workspace import Workspace

    one = system.body(1)
    with Workspace.open(system.cwd) as workspace:
        arms = versions(workspace, max(int(seconds / 2) + 1, 3))
        sequence = begun = live_release(workspace).sequence

        def move(**wanted: Any) -> None:
            nonlocal sequence
            sequence += 1
            put(workspace, sequence=sequence, **wanted)

        def swap(stop: threading.Event) -> None:
            turn = 0
            while not stop.wait(2.0):
                turn += 1
                move(champion=arms[turn % len(arms)])

        def measured() -> dict[str, Any]:
            return load(system.port, system.path, one, connections=64, seconds=seconds, rate=rate)

        with running(system.argv, system.port, system.path, one, cwd=system.cwd, env=system.env):
            load(system.port, system.path, one, connections=8, seconds=1.0)
            result = {"steady": measured()}
            move(champion=arms[0], shadow=arms[1])
            time.sleep(1.5)
            result["shadow"] = measured()
            move(champion=arms[0])
            time.sleep(1.5)
            result["steady again"] = measured()
            stop = threading.Event()
            swapping = threading.Thread(target=swap, args=(stop,))
            swapping.start()
            result["swaps"] = measured()
            stop.set()
            swapping.join()
            result["moved"] = {"count": sequence - begun - 2}
    return result


def swap_ratios(moved: dict[str, Any]) -> dict[str, Any]:
    """What ``disturbed`` measured, as the promises put it."""
    steady = max(moved["steady"]["p99"], moved["steady again"]["p99"])
    return {
        f"hot swap, {moved['moved']['count']} under load: failed (promise 0)": moved["swaps"]["failed"],
        "hot swap: p99 / steady p99 (promise at most 2)": round(moved["swaps"]["p99"] / steady, 2),
        "shadow on: p99 / steady p99": round(moved["shadow"]["p99"] / steady, 2),
    }


def only_swaps(work: Path, kind: str, times: int, seconds: float) -> list[dict[str, Any]]:
    """The hot swap alone, several times over: each run is compared with its own steady state."""
    ours = next(systems(work, [kind], []))
    one = ours.body(1)
    with running(ours.argv, ours.port, ours.path, one, cwd=ours.cwd, env=ours.env):
        load(ours.port, ours.path, one, connections=8, seconds=1.0)
        best = load(ours.port, ours.path, one, connections=64, seconds=2.0)["rps"]
    results = []
    for _ in range(times):
        moved = disturbed(ours, best * 0.5, seconds)
        results.append({"system": "holdfast, disturbed", "model": kind, "rate": best * 0.5, **moved})
        p99 = {name: moved[name]["p99"] for name in ("steady", "steady again", "shadow", "swaps")}
        print(f"{best * 0.5:.0f}/s, p99 ms {p99}; {swap_ratios(moved)}", flush=True)
    return results


def at_rate_of(system: System, rate: float, seconds: float) -> dict[str, Any]:
    one = system.body(1)
    with running(system.argv, system.port, system.path, one, cwd=system.cwd, env=system.env):
        load(system.port, system.path, one, connections=8, seconds=0.5)
        return load(system.port, system.path, one, connections=64, seconds=seconds, rate=rate)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks serving", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--models", nargs="+", default=["forest", "linear"], choices=["forest", "linear"])
    parser.add_argument("--peers", nargs="*", default=["granian", "bentoml", "mlflow"])
    parser.add_argument("--only", nargs="+", help="systems whose name contains one of these")
    parser.add_argument("--swaps", type=int, metavar="N", help="only the hot swap, N times")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers under test are stopped with us
    if options.swaps:
        with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch:
            alone = only_swaps(Path(scratch), options.models[0], options.swaps, max(options.seconds, 6.0))
        kept = sum(r["swaps"]["p99"] <= 2 * max(r["steady"]["p99"], r["steady again"]["p99"]) for r in alone)
        print(f"hot swap: {kept} of {len(alone)} runs with p99 at most 2 x steady")
        if options.json:
            options.json.write_text(json.dumps({"results": alone}, indent=1))
        return 0
    peers = ready_peers(options.peers)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch:
        found = [
            s
            for s in systems(Path(scratch), options.models, peers)
            if not options.only or any(o in s.name for o in options.only)
        ]
        print(
            f"{'model':7} {'system':32} {'cold s':>6} {'RSS MB':>7} {'CPU µs':>7} {'c=1':>7} {'c=64':>7} {'100 rows':>8}  "
            "c=64 p50/p99  60 % p99 ms"
        )
        for system in found:
            r = measure(system, options.seconds)
            results.append(r)
            many = r.get("rows100", {}).get("rps", "")
            print(
                f"{r['model']:7} {r['system']:32} {r['cold_s']:6} {r['rss_mb']:7.0f} {r['cpu_us']:7.0f} {r['c1']['rps']:7.0f} {r['c64']['rps']:7.0f} "
                f"{many!s:>8}  {r['c64'].get('p50')}/{r['c64'].get('p99')}  {r['rate60'].get('p99')}"
                + (
                    f"  FAILED {sum(r[k]['failed'] for k in ('c1', 'c64', 'rate60'))}"
                    if any(r[k]["failed"] for k in ("c1", "c64", "rate60"))
                    else ""
                ),
                flush=True,
            )
        ratios = compare(results)
        for r in results:
            if r["system"] in ("bentoml", "mlflow") and r["model"] in options.models:
                ours = next((s for s in found if s.name == "holdfast" and s.kind == r["model"]), None)
                if ours is None:
                    continue
                same = at_rate_of(ours, max(r["c64"]["rps"] * 0.6, 1.0), options.seconds)
                theirs = r["rate60"].get("p99")
                ratios[f"{r['model']}: p99 at 60 % of {r['system']}'s best rate, theirs / ours"] = (
                    round(theirs / same["p99"], 1) if theirs else None
                )
        ours = next((s for s in found if s.name == "holdfast"), None)
        if ours is not None:
            best = next(r["c64"]["rps"] for r in results if (r["system"], r["model"]) == (ours.name, ours.kind))
            moved = disturbed(ours, best * 0.5, max(options.seconds, 6.0))
            results.append({"system": "holdfast, disturbed", "model": ours.kind, **moved})
            ratios |= swap_ratios(moved)
    for name, ratio in ratios.items():
        print(f"{name}: {ratio}")
    if options.json:
        options.json.write_text(json.dumps({"results": results, "ratios": ratios}, indent=1))
    return 0


def compare(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Every printed promise as a ratio of this run."""

    def rps(system: str, model: str, what: str = "c64") -> float | None:
        return next(
            (r[what]["rps"] for r in results if (r["system"], r["model"]) == (system, model) and what in r), None
        )

    def best(model: str, what: str = "c64") -> float | None:
        values = [v for s in ("bentoml", "mlflow") if (v := rps(s, model, what))]
        return max(values) if values else None

    kept, bare, durable, balanced = (
        "holdfast, kept in scikit-learn", "granian + onnxruntime, bare", "holdfast durable", "holdfast 2 replicas + balancer",
    )  # fmt: skip
    ours = rps("holdfast", "forest")
    wanted = {
        "forest, 1 row, c=64: holdfast / best peer (promise 40)": (ours, best("forest")),
        "forest, 1 row, c=64: kept in scikit-learn / best peer (promise 15)": (rps(kept, "forest"), best("forest")),
        "forest, 100 rows: holdfast / best peer (promise 7)": (
            rps("holdfast", "forest", "rows100"),
            best("forest", "rows100"),
        ),
        "linear, 1 row, c=64: holdfast / best peer (promise 10)": (rps("holdfast", "linear"), best("linear")),
        "forest, c=64: holdfast / bare granian + onnx (promise 0.6)": (ours, rps(bare, "forest")),
        "forest, c=64: durable / buffered (promise 0.5)": (rps(durable, "forest"), ours),
        "forest, c=1: balancer / direct": (rps(balanced, "forest", "c1"), rps("holdfast", "forest", "c1")),
        "forest, c=64: balancer with 2 replicas / direct": (rps(balanced, "forest"), ours),
    }
    ratios: dict[str, Any] = {name: round(a / b, 2) for name, (a, b) in wanted.items() if a and b}
    compiled = [r for r in results if r["system"].startswith("holdfast") and r["system"] != kept and "replica_mb" in r]
    if compiled:
        ratios["cold start of our slowest compiled system, s (promise at most 2)"] = max(r["cold_s"] for r in compiled)
        ratios["memory of our largest compiled replica, MB (promise at most 150)"] = max(
            r["replica_mb"] for r in compiled
        )

    def one(system: str, what: str) -> Any:
        return next((r[what] for r in results if (r["system"], r["model"]) == (system, "forest") and what in r), None)

    if one("holdfast", "c1") and one(balanced, "c1"):
        added = (one(balanced, "c1")["p50"] - one("holdfast", "c1")["p50"]) * 1000
        ratios["forest, c=1: the balancer adds to the median, µs"] = round(added)
    if one("holdfast", "cpu_us") and one(bare, "cpu_us"):
        ratios["forest, c=64: CPU a request beyond the bare stack's, µs"] = round(
            one("holdfast", "cpu_us") - one(bare, "cpu_us")
        )
    return ratios


if __name__ == "__main__":
    sys.exit(main())
