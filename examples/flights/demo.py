"""The whole loop on real data: one model lives from raw data to automatic retraining, through the real HTTP endpoints.

    python examples/flights/demo.py [FOLDER] [--until 2014-01-01]

Makes a project of its own (a git repository) in FOLDER, trains and releases on January and February 2013, then replays
every flight of the rest of the year at a compressed clock. Faults are planted on the way. Ends with a summary, a report and the
addresses and commands to look further.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import report
from prepare import prepare
from wire import Client
from world import DAY, STEP, World, deliver, deliver_history, instant, month_start

from holdfast.backends.clock import ReplayClock
from holdfast.core.identity import file_sha256, from_us, iso
from holdfast.workspace import Workspace

SERVICE = "late_arrival"
REPLICA_KILLED = instant("2013-03-12T18:00")
BAD_MONTH = 6
FIRST_DAY = month_start(3)


def main() -> None:
    arguments = argparse.ArgumentParser(description="The whole loop on real data.")
    arguments.add_argument("folder", nargs="?", type=Path, default=Path(".demo/flights"))
    arguments.add_argument("--until", default="2014-01-01", help="Stop the replay on this day.")
    arguments.add_argument("--no-arms", action="store_true", help="Leave the compared arms out.")
    options = arguments.parse_args()
    demo = Demo(
        options.folder.resolve(),
        until=min(instant(options.until + "T05:00"), month_start(13)),
        arms=not options.no_arms,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whoever stops the demo stops what it started
    try:
        demo.run()
    finally:
        demo.stop()


class Demo:
    """One replay. Everything it does to Holdfast goes through a command or an HTTP endpoint a user has."""

    def __init__(self, root: Path, *, until: int, arms: bool) -> None:
        self.root, self.until, self.with_arms = root, until, arms
        self.raw = root.parent / "raw"
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.ids: dict[int, str] = {}
        self.faults: list[dict[str, Any]] = []
        self.sent = 0
        self.seconds: dict[str, float] = {}
        self.began = time.monotonic()

    # --- stages -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self.stage("Raw data: 336,776 flights out of New York, hourly weather, the fleet")
        self.raw.mkdir(parents=True, exist_ok=True)
        made_by = self.raw / "made-by"
        recipe = file_sha256(HERE / "prepare.py")
        if not made_by.exists() or made_by.read_text() != recipe:
            prepare(self.raw)
            made_by.write_text(recipe)
        self.make_project()
        self.ws = Workspace.open(self.root)
        self.clock = self.ws.clock
        assert isinstance(self.clock, ReplayClock)
        self.clock.set(FIRST_DAY)
        self.stage("Data and features: validate, version, apply, fill the online store")
        for source in ("flights", "arrivals", "weather", "planes"):
            self.holdfast("data", "add", f"data/{source}")
        self.holdfast("features", "apply")
        self.commit("data and definitions")
        self.holdfast("features", "materialize", "--end", iso(FIRST_DAY))
        if self.with_arms:
            self.child("arms", [sys.executable, str(HERE / "arms.py"), str(self.root), str(self.until)], nice=10)
        self.stage("First model: trained on January and February, gate, staging, smoke, production")
        self.holdfast("loop", "order", SERVICE, "--reason", "the first model")
        self.start("controller", "loop", "run", SERVICE)
        self.start("features", "features", "serve", "--port", "0")
        self.start("fleet", "serve", SERVICE, "--replicas", "2", "--port", "0", "--replay")
        self.wait_for(lambda: self.status()["champion"], "a champion", seconds=300)
        self.plant_leak()
        self.replay()
        self.finish()

    def make_project(self) -> None:
        """A fresh project: a git repository with the definitions and the settings, and the first two months of files."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        for name in ("definitions.py", "leaky.py"):
            shutil.copy(HERE / name, self.root / name)
        (self.root / "holdfast.toml").write_text('definitions = "definitions"\nclock = "replay"\n', encoding="utf-8")
        (self.root / ".gitignore").write_text(".holdfast/\n__pycache__/\n", encoding="utf-8")
        subprocess.run(["git", "init", "-q", "-b", "main"], cwd=self.root, check=True)
        self.commit("the flights project")
        deliver_history(self.raw, self.root / "data", range(1, 3))

    def commit(self, message: str) -> None:
        who = ["-c", "user.name=demo", "-c", "user.email=demo@localhost"]
        subprocess.run(["git", "add", "-A"], cwd=self.root, check=True)
        subprocess.run(["git", *who, "commit", "-q", "--allow-empty", "-m", message], cwd=self.root, check=True)

    # --- planted faults -----------------------------------------------------------------------------------------------

    def plant_leak(self) -> None:
        """Somebody trains with the label among the features and tries to deploy that by hand."""
        self.stage("Planted fault: a candidate trained with leaked labels")
        trained = json.loads(self.holdfast("train", SERVICE, "--definitions", "leaky", "--json").stdout)
        reference = f"{SERVICE}@{trained['version']}"
        checked = self.holdfast("check", reference, "--definitions", "leaky", "--json", status=1)
        verdict = json.loads(checked.stdout)
        failed = [r["check"] for r in verdict["results"] if r["outcome"] == "fail"]
        deployed = self.holdfast("deploy", reference, status=1)
        refusal = next((line for line in deployed.stderr.splitlines() if line.startswith("error")), "")
        self.fault(
            "leaked labels",
            FIRST_DAY,
            f"{reference}: the gate failed {', '.join(failed)}; deploy refused: {refusal[:120]}",
        )

    def plant_bad_delivery(self, month: int) -> None:
        """The month's schedule arrives corrupted: distances negative, airports unknown, half the rows gone."""
        spoiled = "* REPLACE (-distance AS distance, 'XXX' AS origin)"
        deliver(self.raw, self.root / "data", "flights", "scheduled_departure", month, select=spoiled)
        found = json.loads(self.holdfast("data", "check", "data/flights", "--json", status=1).stdout)
        before = self.dataset("flights")
        self.holdfast("data", "add", "data/flights", status=1)
        kept = self.dataset("flights") == before
        blocking = [f["message"] for findings in found.values() for f in findings if f["blocking"]]
        deliver(self.raw, self.root / "data", "flights", "scheduled_departure", month)
        self.holdfast("data", "add", "data/flights")
        self.commit(f"schedule of 2013-{month:02d}")
        self.fault(
            "corrupted delivery", self.clock.now(),
            f"2013-{month:02d}.parquet blocked ({'; '.join(blocking)[:150]}); the version before stayed current: {kept}; the good file was admitted",
        )  # fmt: skip
        assert kept, "a corrupted delivery replaced good data"

    def dataset(self, source: str) -> str:
        row = self.ws.ledger.get("datasets", source)
        return json.dumps(row.get("current") if row else None, sort_keys=True)

    def kill_replica(self) -> None:
        about = self.about(f"{SERVICE}-production")
        victim = about["replicas"][0]
        os.kill(victim, signal.SIGKILL)
        self.killed_at, self.killed = self.sent, victim

    def kill_controller(self) -> None:
        """kill -9 of the controller in the middle of a cycle, while it fits."""
        cycle = next(c for c in self.cycles() if c["status"] == "running")
        self.children["controller"].kill()
        self.children["controller"].wait()
        done = [k.rpartition("/")[2] for k, _ in self.ws.ledger.scan("steps", prefix=f"cycle/{cycle['id']}/")]
        self.start("controller", "loop", "run", SERVICE)
        self.fault(
            "killed controller",
            self.clock.now(),
            f"kill -9 at step '{cycle['step']}' of cycle {cycle['id'][:10]} (done: {', '.join(done)}); a new one carried on",
        )

    # --- time moves ---------------------------------------------------------------------------------------------------

    def replay(self) -> None:
        self.stage("Time moves: every flight of the rest of 2013, labels as they land")
        world = World(self.raw, FIRST_DAY)
        features = Client(self.about("features")["address"], connections=2)
        fleet = Client(self.about(f"{SERVICE}-production")["address"], connections=4)
        labels: list[dict[str, Any]] = []
        killed_replica = killed_controller = False
        next_day = FIRST_DAY + DAY
        with bar("replay", (self.until - FIRST_DAY) // DAY) as tick:
            for at in range(FIRST_DAY, self.until, STEP):
                if at >= next_day:
                    with self.timed("labels"):
                        fleet.post_all(take(labels))
                    with self.timed("controller"):
                        killed_controller = self.end_of_day(at, killed_controller)
                    with self.timed("deliveries"):
                        self.deliveries(at)
                    next_day += DAY
                    tick(
                        (at - FIRST_DAY) // DAY, f"{from_us(at):%d %b}  {self.sent:,} flights asked, {self.headline()}"
                    )
                with self.timed("feeds"):
                    self.push(features, world, at)
                for row in world.arrivals.between(at, at + STEP):
                    known = self.ids.pop(int(row["flight_id"]), None)
                    if known is not None:
                        labels.append({"prediction_id": known, "value": row["late"], "at": row["known_at"]})
                flights = world.flights.between(at, at + STEP)
                if flights:
                    with self.timed("predictions"):
                        self.ask(fleet, flights, take(labels) if len(labels) >= 200 else [])
                if not killed_replica and at >= REPLICA_KILLED and flights:
                    self.kill_replica()
                    killed_replica = True
        fleet.post_all(take(labels))
        with self.timed("controller"):
            self.end_of_day(self.until, True)
        self.requests = fleet.requests + features.requests
        self.failed = fleet.failed + features.failed
        if killed_replica:
            about = self.about(f"{SERVICE}-production")
            self.fault(
                "killed replica",
                REPLICA_KILLED,
                f"kill -9 of process {self.killed} under traffic: {len(fleet.failed)} failed requests; replicas now {about['replicas']}",
            )

    def push(self, features: Client, world: World, at: int) -> None:
        """What the feeds deliver at ``at``: landings and weather."""
        bodies = []
        for source, feed in (("arrivals", world.arrivals), ("weather", world.weather)):
            rows = feed.between(at, at + STEP)
            if rows:
                frame = {name: [row[name] for row in rows] for name in rows[0]}
                bodies.append({"push_source_name": source, "df": frame, "to": "online_and_offline"})
        features.post_all([("/push", body) for body in bodies])

    def ask(self, fleet: Client, flights: list[dict[str, Any]], labels: list[tuple[str, Any]]) -> None:
        """One request per origin airport: its departures of the next hour. ``labels`` travel beside them."""
        by_origin: dict[str, list[dict[str, Any]]] = {}
        for row in flights:
            by_origin.setdefault(row["origin"], []).append(row)
        bodies = [
            {
                "rows": [{k: v for k, v in row.items() if k not in ("flight_id", "due")} for row in rows],
                "request_time": [row["due"] for row in rows],
            }
            for rows in by_origin.values()
        ]
        answers = fleet.post_all([*(("/predict", body) for body in bodies), *labels])
        for rows, answer in zip(by_origin.values(), answers, strict=False):
            if answer is not None:
                for row, prediction in zip(rows, answer["predictions"], strict=True):
                    self.ids[row["flight_id"]] = prediction["id"]
                    self.sent += 1

    def end_of_day(self, at: int, killed_controller: bool) -> bool:
        """Let business time reach ``at`` and wait until the controller has done what is due. Returns whether it was killed."""
        self.clock.set(at)

        def ticked() -> bool:
            nonlocal killed_controller
            if not killed_controller:
                running = [c for c in self.cycles() if c["status"] == "running" and c["order"]["trigger"] != "manual"]
                if running and running[-1]["step"] == "fit":
                    self.kill_controller()
                    killed_controller = True
            return int(self.about("loop").get("ticked", 0)) >= at

        self.wait_for(ticked, f"the controller at {iso(at)}", seconds=300, pause=0.004)
        return killed_controller

    def deliveries(self, at: int) -> None:
        """On the first of a month its schedule arrives as a file."""
        for month in range(3, 13):
            if at - DAY < month_start(month) <= at:
                if month == BAD_MONTH:
                    self.plant_bad_delivery(month)
                else:
                    deliver(self.raw, self.root / "data", "flights", "scheduled_departure", month)
                    self.holdfast("data", "add", "data/flights")
                    self.commit(f"schedule of 2013-{month:02d}")

    # --- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        self.stage("Proof: served features recomputed offline, one prediction traced, the chain verified")
        self.stop("fleet", "features", "controller")
        verified = json.loads(self.holdfast("features", "verify", SERVICE, "--json").stdout)
        audit = self.holdfast("audit", "verify").stdout.strip()
        arms = self.wait_for_arms()
        result = report.collect(
            self.ws, SERVICE, arms=arms, faults=self.faults, verified=verified, start=FIRST_DAY, end=self.until
        )
        result["audit"] = audit
        result["requests"] = {"sent": self.requests, "failed": self.failed[:10], "predictions": self.sent}
        result["seconds"] = time.monotonic() - self.began
        result["seconds_of_replay"] = {name: round(seconds, 1) for name, seconds in self.seconds.items()}
        page = self.root / "report.html"
        page.write_text(report.render(result), encoding="utf-8")
        (self.root / "report.json").write_text(json.dumps(result, indent=1, default=str), encoding="utf-8")
        traced = self.holdfast("trace", result["example"]).stdout
        print(report.text(result), flush=True)
        print(f"\nOne prediction, traced back:\n{traced}")
        print(f"The report: {page.as_uri()}\n")
        print(f"Look further:\n  cd {self.root}")
        for line in (
            "holdfast status", f"holdfast loop cycles {SERVICE}", f"holdfast monitor show {SERVICE}", f"holdfast models history {SERVICE}",
            f"holdfast trace {result['example']}", "holdfast up       # server, replicas, features, loop; prints their addresses",
        ):  # fmt: skip
            print(f"  {line}")
        problems = list(self.failed) + [f"{name}: unequal" for name, n in result["unequal"].items() if n]
        if problems:
            sys.exit(f"the demo ended with problems: {problems[:5]}")

    def wait_for_arms(self) -> dict[str, Any]:
        if not self.with_arms:
            return {}
        self.stage("The compared arms: never retrained, monthly refits, the naive rule")
        if self.children["arms"].wait() != 0:
            sys.exit(f"the compared arms failed; see {self.root / '.holdfast' / 'logs' / 'arms.log'}")
        return json.loads((self.root / "arms.json").read_text(encoding="utf-8"))

    # --- plumbing -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - began

    def stage(self, text: str) -> None:
        print(f"\n[{time.monotonic() - self.began:5.0f} s] {text}", flush=True)

    def fault(self, name: str, at: int, handled: str) -> None:
        self.faults.append({"fault": name, "at": at, "handled": handled})
        print(f"          fault: {name}: {handled}", flush=True)

    def holdfast(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command as a user would and insist on its exit status."""
        done = subprocess.run(
            [sys.executable, "-m", "holdfast.cli.main", *words], cwd=self.root, capture_output=True, text=True
        )
        if done.returncode != status:
            sys.exit(
                f"`holdfast {' '.join(words)}` ended with {done.returncode}, not {status}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            )
        if "--json" not in words:
            for line in (done.stdout + done.stderr).splitlines()[:12]:
                print(f"          {line}", flush=True)
        return done

    def start(self, name: str, *words: str) -> None:
        about = {"fleet": f"{SERVICE}-production", "features": "features", "controller": "loop"}[name]
        path = self.ws.path("run", f"{about}.json")
        path.unlink(missing_ok=True)
        self.child(name, [sys.executable, "-m", "holdfast.cli.main", *words])
        if name != "controller":
            self.wait_for(path.exists, f"the {name} server", seconds=60)

    def child(self, name: str, command: list[str], *, nice: int = 0) -> None:
        log = self.root / ".holdfast" / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self.children[name] = subprocess.Popen(
                [*(["nice", "-n", str(nice)] if nice else []), *command],
                cwd=self.root,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )

    def stop(self, *names: str) -> None:
        for name in names or list(self.children):
            child = self.children.get(name)
            if child is not None and child.poll() is None:
                child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(20)
                if child.poll() is None:
                    child.kill()

    def about(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.root / ".holdfast" / "run" / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def cycles(self) -> list[dict[str, Any]]:
        return sorted(
            (row for _, row in self.ws.ledger.scan("cycles", prefix=f"{SERVICE}/")), key=lambda c: c["started"]
        )

    def status(self) -> dict[str, Any]:
        row = self.ws.ledger.get("releases", f"{SERVICE}/production") or {}
        return {"champion": (row.get("champion") or {}).get("version"), "challenger": row.get("challenger")}

    def headline(self) -> str:
        now = self.status()
        more = (
            f", canary @{now['challenger']['version']} {now['challenger']['weight']:g} %" if now["challenger"] else ""
        )
        return f"champion @{now['champion']}{more}, {len(self.cycles())} cycles"

    def wait_for(self, ready: Any, what: str, *, seconds: float, pause: float = 0.05) -> None:
        end = time.monotonic() + seconds
        while not ready():
            for name, child in self.children.items():
                if child.poll() not in (None, 0) and name != "arms":
                    log = (self.root / ".holdfast" / "logs" / f"{name}.log").read_text(
                        encoding="utf-8", errors="replace"
                    )
                    sys.exit(f"{name} ended with {child.returncode} while waiting for {what}:\n{log[-3000:]}")
            if time.monotonic() > end:
                sys.exit(f"waited {seconds:.0f} s for {what}")
            time.sleep(pause)


def take(labels: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """The request that delivers ``labels``, which is then empty; none where there are none."""
    if not labels:
        return []
    body = {"labels": list(labels)}
    labels.clear()
    return [("/labels", body)]


@contextlib.contextmanager
def bar(label: str, total: int) -> Iterator[Any]:
    """The CLI's own progress bar."""
    from holdfast.cli.output import progress

    with progress(label) as tell:
        yield lambda done, what: tell(done, total, what)


if __name__ == "__main__":
    main()
