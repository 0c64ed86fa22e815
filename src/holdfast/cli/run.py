"""`holdfast run -- COMMAND`: any script as a tracked run; `holdfast reproduce RUN`: do it again and compare."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import emit, json_option, say, table

if TYPE_CHECKING:
    from holdfast.training.reproduce import Recorded
    from holdfast.training.script import Tracking
    from holdfast.training.spool import Spool
    from holdfast.workspace import Workspace

_DELIVERY_SECONDS = 30.0


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--experiment", help="Experiment of the run; made where there is none.")
@click.option("--name", default="", help="Name of the run.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Seeds random, NumPy, PYTHONHASHSEED and frameworks before the script runs.  [default: drawn, and recorded]",
)
@click.option("--wait", type=click.FloatRange(0), default=_DELIVERY_SECONDS, show_default=True, metavar="SECONDS",
              help="How long to go on delivering to a server that is away, once the command has ended.")  # fmt: skip
@click.option("--deliver", is_flag=True, help="Only deliver what earlier runs could not.")
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(
    experiment: str | None,
    name: str,
    seed: int | None,
    wait: float,
    deliver: bool,
    as_json: bool,
    command: tuple[str, ...],
) -> int:
    """Run COMMAND as a tracked run: code, environment, files read, notebook cells, seeds and hardware are recorded; `mlflow`
    calls inside it land in the same run, through a local spool that outlives outages of the server.

    Exit status 1 when the command fails.
    """
    import secrets

    from holdfast.core.errors import BadInput, HoldfastError
    from holdfast.training import script
    from holdfast.workspace import Workspace

    seed = secrets.randbelow(2**32) if seed is None else seed
    if not command and not deliver:
        raise BadInput("there is no command to run", hint="write it like `holdfast run -- python train.py`")
    with Workspace.open() as workspace, _upstream(workspace) as (url, token):
        left = _deliver_old(workspace, url, token, wait if deliver else 0.0)
        if deliver:
            emit(
                {"waiting": left},
                as_json=as_json,
                text=lambda: say(f"{left} calls still wait" if left else "all is delivered"),
            )
            return 1 if left else 0
        with _spool(workspace, url, token) as (spool, tracking):
            try:
                home = script.experiment(tracking, experiment) if experiment else "0"
            except HoldfastError as error:
                say(f"notice: {error.message}; the run goes to the default experiment")
                home = "0"
            started = script.begin(
                tracking, workspace.root, command, at=workspace.clock.now(), actor=workspace.actor, experiment_id=home,
                name=name, seed=seed,
            )  # fmt: skip
            run_id = str(started["info"]["run_id"])
            say(f"run {run_id}")
            status = _execute(spool, command, run_id, seed=seed, cwd=None, watch=workspace.path("observe", run_id))
            _note(tracking, workspace, workspace.root, started, track=True)
            script.end(tracking, run_id, at=workspace.clock.now(), exit_status=status)
            spool.drain(wait)
            waiting, refused = spool.waiting, list(spool.refused)
    for target, code, text in refused:
        say(f"notice: the server refused a call that was kept for it ({target}: {code} {text[:200]})")
    if waiting:
        say(
            f"notice: {waiting} tracking calls wait for the server; the next `holdfast run`, or `holdfast run --deliver`, sends them"
        )
    if as_json:
        emit({"run_id": run_id, "exit_status": status, "waiting": waiting, "refused": len(refused)}, as_json=True)
    return 1 if status else 0


@click.command()
@click.argument("run_id")
@click.option("--here", is_flag=True, help="Use the present environment even where it differs from the run's.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Do it in this new folder and keep it.")
@json_option
def reproduce(run_id: str, here: bool, keep: Path | None, as_json: bool) -> int:
    """Do a run of `holdfast run` or `holdfast train` again from its commit, patch, environment and data, and compare what
    comes out.

    Exit status 0 where the result has the same hash, 1 where it differs; then each difference is named.
    """
    import tempfile

    from holdfast.core.errors import Conflict
    from holdfast.training import fingerprint, script
    from holdfast.training import reproduce as again
    from holdfast.workspace import Workspace

    if keep is not None and keep.exists():
        raise Conflict(f"{keep} is already there", hint="name a folder that does not exist")
    with Workspace.open(create=False) as workspace, _upstream(workspace) as (url, token), ExitStack() as stack:
        spool, tracking = stack.enter_context(_spool(workspace, url, token))
        past = again.recorded(tracking, run_id)
        scratch = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-")))
        scratch.mkdir(parents=True, exist_ok=True)
        say(f"code: {past.code['commit'] or 'no commit'}" + (" and a patch" if past.patch else ""))
        root = again.rebuild_code(workspace.root, past, scratch / "code")
        causes = _place_data(workspace.root, root, past)
        command, present = past.command, fingerprint.environment_of(past.command[0])
        differing = again.environment_differences(past.environment, present)
        path = os.environ.get("PATH", "")
        if differing and not here:
            say(f"environment: {len(differing)} differences, building the run's own")
            python = again.rebuild_environment(
                past.environment, scratch / "environment", log=scratch / "environment.log"
            )
            path, command = f"{python.parent}{os.pathsep}{path}", again.with_python(command, python)
            present = fingerprint.environment_of(str(python))
            differing = again.environment_differences(past.environment, present)
        causes += differing
        if past.command[:2] == ["holdfast", "train"]:
            python = scratch / "environment" / "bin" / "python"
            return _train_again(
                workspace, tracking, past, root, causes, python if python.exists() else None, as_json=as_json
            )
        started = script.begin(
            tracking, root, past.command, at=workspace.clock.now(), actor=workspace.actor, seed=past.seed,
            experiment_id=past.experiment_id, tags={"holdfast.reproduces": run_id}, environment=present,
        )  # fmt: skip
        new_id = str(started["info"]["run_id"])
        watch = workspace.path("observe", new_id)
        status = _execute(spool, command, new_id, seed=past.seed, cwd=root, path=path, watch=watch)
        _note(tracking, workspace, root, started, track=False)
        script.end(tracking, new_id, at=workspace.clock.now(), exit_status=status)
        then, now = again.result(tracking, run_id), again.result(tracking, new_id)
        found = again.differences(then, now)
    if status:
        causes.append({"what": "exit status", "then": "0", "now": str(status)})
    return _compared(run_id, new_id, then, now, found, causes, failed=bool(status), as_json=as_json)


def _train_again(
    workspace: Workspace,
    tracking: Tracking,
    past: Recorded,
    root: Path,
    causes: list[dict[str, Any]],
    python: Path | None,
    *,
    as_json: bool,
) -> int:
    """Do a `holdfast train` again in a workspace of its own under ``root``, and compare its run with the one of then."""
    import shutil
    import sys

    import msgspec

    import holdfast
    from holdfast.core.errors import BadData
    from holdfast.training import reproduce as again
    from holdfast.training import script
    from holdfast.workspace import Workspace as Other

    clock = workspace.home / "clock"
    if clock.exists():
        (root / workspace.home.name).mkdir(exist_ok=True)
        shutil.copy(clock, root / workspace.home.name / "clock")
    # Its records go to a store of its own, whatever shared one the project's settings name.
    environment = {k: v for k, v in os.environ.items() if k not in script.HIDDEN}
    for slot, url in (("LEDGER", "sqlite:///.holdfast/ledger.db"), ("RUNS", "sqlite:///.holdfast/runs.db")):
        environment[f"HOLDFAST_{slot}_URL"] = url
    environment |= {"HOLDFAST_OBJECTS_URL": ".holdfast/objects", "HOLDFAST_SERVER_URL": ""}
    if python is not None:
        package = str(Path(holdfast.__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH"))))
    command = [str(python or sys.executable), "-m", "holdfast.cli.main", *past.command[1:], "--json"]
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise BadData(f"the training of run {past.run_id} fails when it is done again", hint="what it said is above")
    new_id = str(msgspec.json.decode(done.stdout)["run_id"])
    then = again.result(tracking, past.run_id)
    overrides = {
        "ledger.url": environment["HOLDFAST_LEDGER_URL"], "runs.url": environment["HOLDFAST_RUNS_URL"],
        "objects.url": environment["HOLDFAST_OBJECTS_URL"], "server.url": None,
    }  # fmt: skip
    with (
        Other.open(root, overrides=overrides) as other,
        _upstream(other) as (url, token),
        _spool(other, url, token) as (_, mine),
    ):
        now = again.result(mine, new_id)
    return _compared(
        past.run_id, new_id, then, now, again.differences(then, now), causes, failed=False, as_json=as_json
    )


def _compared(
    run_id: str,
    new_id: str,
    then: dict[str, Any],
    now: dict[str, Any],
    found: list[dict[str, Any]],
    causes: list[dict[str, Any]],
    *,
    failed: bool,
    as_json: bool,
) -> int:
    """Say whether the same came out; 0 where it did."""
    same = not found and not failed
    summary: dict[str, Any] = {
        "run_id": run_id, "again": new_id, "same": same, "digest": {"then": then["digest"], "now": now["digest"]},
        "differences": found, "causes": causes,
    }  # fmt: skip

    def text() -> None:
        click.echo(
            f"{'same' if same else 'differs'}: {then['digest']}" + ("" if same else f" then, {now['digest']} now")
        )
        rows = [(d["what"], d["then"], d["now"]) for d in (*found, *causes)]
        if rows:
            table(("what differs", "then", "now"), rows)

    emit(summary, as_json=as_json, text=text)
    return 0 if same else 1


def _execute(
    spool: Spool,
    command: Sequence[str],
    run_id: str,
    *,
    seed: int | None,
    cwd: Path | None,
    watch: Path,
    path: str | None = None,
) -> int:
    """Run the command with its tracking calls going to the spool and what it does noted in the folder ``watch``; 128 + N
    where signal N ended it."""
    from holdfast.training import observed, script
    from holdfast.training.spool_server import SpoolServer

    with SpoolServer(spool) as server:
        environment = {k: v for k, v in os.environ.items() if k not in script.HIDDEN}
        environment.update(script.variables(server.url, server.token, run_id, seed=seed))
        watch.mkdir(parents=True, exist_ok=True)
        environment.update(observed.variables(watch, environment))
        if path is not None:
            environment["PATH"] = path
        try:
            process = subprocess.Popen(list(command), env=environment, cwd=cwd)
        except (FileNotFoundError, PermissionError) as error:
            say(f"{command[0]}: {error.strerror}")
            status = 127
        else:
            with _passing_signals(process):
                status = process.wait()
    return status if status >= 0 else 128 - status


@contextmanager
def _passing_signals(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """SIGTERM and SIGINT are the command's to obey; this process stays to record how it ended."""
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)}

    def passing(number: int, _frame: object) -> None:
        # The terminal sends SIGINT to the whole group already.
        if number != signal.SIGINT or os.getpgid(process.pid) != os.getpgrp():
            process.send_signal(number)

    for sign in before:
        signal.signal(sign, passing)
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


@contextmanager
def _upstream(workspace: Workspace) -> Iterator[tuple[str, str | None]]:
    """The tracking server's URL and token: the configured one, or this workspace's own, answered by this process."""
    settings = workspace.settings.server
    if settings.url:
        yield settings.url, settings.token
        return
    import secrets
    import socket
    import threading

    import uvicorn

    from holdfast.server import access
    from holdfast.server.controlplane import application

    token = secrets.token_urlsafe(32)
    rules = access.Access(tokens=[access.of(token, name=workspace.actor)], hosts=[], bind="127.0.0.1")
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    config = uvicorn.Config(application(workspace, access=rules), log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="holdfast-server", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", token
    finally:
        server.should_exit = True
        thread.join(15)
        listener.close()


@contextmanager
def _spool(workspace: Workspace, url: str, token: str | None) -> Iterator[tuple[Spool, Tracking]]:
    import secrets

    from holdfast.training.script import Tracking
    from holdfast.training.spool import Spool

    spool = Spool(workspace.path("spool", f"{secrets.token_hex(8)}.db"), url, token=token)
    try:
        yield spool, Tracking(spool)
    finally:
        spool.close()


def _deliver_old(workspace: Workspace, url: str, token: str | None, seconds: float) -> int:
    """Send what earlier runs left behind; how many calls still wait."""
    from holdfast.core.errors import Conflict
    from holdfast.training.spool import Spool

    left = 0
    for path in sorted((workspace.home / "spool").glob("*.db")):
        try:
            spool = Spool(path, url, token=token)
        except Conflict:
            continue  # its own process is still at it
        try:
            spool.drain(max(seconds, 5.0))
            left += spool.waiting
        finally:
            spool.close()
    return left


def _datasets(root: Path) -> list[dict[str, str]]:
    """The tracked datasets of the project, by what their pointers say."""
    from holdfast.data import pointers, repository

    repo = repository.find(root)
    if repo is None:
        return []
    return [
        {
            "name": str(out.place.relative_to(repo.root)),
            "digest": out.md5,
            "source": str(out.place.relative_to(repo.root)),
        }
        for pointer in pointers.read_all(repo)
        for out in pointer.outs
        if out.md5
    ]


def _note(tracking: Tracking, workspace: Workspace, root: Path, run: dict[str, Any], *, track: bool) -> None:
    """Bind to the run what its processes did: the files they read by version and hash, seeds, notebook cells.

    Args:
        root: the folder the command ran for; ``track``: files inside it that nothing keeps yet are added to the tracked data.
    """
    import shutil

    import msgspec

    from holdfast.data import reads
    from holdfast.training import observed, script

    run_id = str(run["info"]["run_id"])
    folder = workspace.path("observe", run_id)
    seen = observed.read_back(folder)
    if not seen.processes:
        # Nothing could be seen, so everything tracked is taken for read.
        say(
            "notice: the command's reads could not be seen (it is no Python, or an isolated one); all tracked data is noted"
        )
        script.log_datasets(tracking, run_id, _datasets(root))
    bound = reads.bind(root, [Path(p) for p in seen.reads if not _scratch(Path(p), root)], track=track)
    for read in bound:
        if read.notice:
            say(f"notice: {read.notice}")
    names = {
        (r.dataset or r.path, (r.version if r.how == "tracked" else r.md5) or ""): r.pointer or r.path
        for r in bound
        if r.how != "git" and r.md5
    }
    script.log_datasets(tracking, run_id, [{"name": n, "digest": d, "source": s} for (n, d), s in names.items()])
    script.note(tracking, run, seen, msgspec.to_builtins(bound))
    shutil.rmtree(folder, ignore_errors=True)


def _scratch(path: Path, root: Path) -> bool:
    """Whether a file is a temporary one, outside of the project."""
    import tempfile

    return path.is_relative_to(tempfile.gettempdir()) and not path.is_relative_to(root)


def _place_data(origin: Path, root: Path, past: Recorded) -> list[dict[str, Any]]:
    """Put the run's data back under ``root``, from the original's cache; what is not the data of then, by name."""
    import shutil

    from holdfast.data import cache, checkout, hashing, repository

    source, target = repository.find(origin), repository.find(root)
    if source is not None and target is not None:
        target.dvc.mkdir(exist_ok=True)
        if not target.cache.exists():
            target.cache.parent.mkdir(parents=True, exist_ok=True)
            target.cache.symlink_to(source.cache, target_is_directory=True)
        checkout.checkout(target)
    if not past.reads:
        now = {d["name"]: d["digest"] for d in _datasets(root)}
        return [
            {"what": f"dataset {name}", "then": wanted, "now": now.get(name)}
            for name, wanted in sorted(past.datasets.items())
            if wanted != now.get(name)
        ]
    causes: list[dict[str, Any]] = []
    for read in past.reads:
        wanted, place = read.get("md5"), root / str(read["path"])
        if wanted is None:
            causes.append({"what": f"file {read['path']}", "then": "not kept", "now": None})
            continue
        have = hashing.digest(place).md5 if place.is_file() else None
        inside = not Path(str(read["path"])).is_absolute() and ".." not in Path(str(read["path"])).parts
        kept = Path(cache.of(source).path(wanted)) if source is not None else None
        if have != wanted and inside and kept is not None and kept.is_file():
            # The bytes the run read were not what its commit says (or were not in it): they are put back by their hash.
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            shutil.copyfile(kept, place)
            have = hashing.digest(place).md5
        if have != wanted:
            causes.append({"what": f"file {read['path']}", "then": wanted, "now": have})
    return causes
