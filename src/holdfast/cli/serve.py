"""``holdfast serve``: replicas of a service behind one address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import say

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.core.records import Package
    from holdfast.workspace import Workspace


@click.command()
@click.argument("service")
@click.option("--replicas", type=click.IntRange(1, 64), help="Serving processes.  [default: the service's, or [serve]]")
@click.option("--host", help="Address to listen on; anything but loopback needs a token.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one.  [default: 8080]")
@click.option(
    "--environment",
    type=click.Choice(["production", "staging"]),
    default="production",
    show_default=True,
    help="Whose release to answer with.",
)
@click.option("--log", "log_mode", type=click.Choice(["durable", "buffered"]), help="When the prediction log promises.")
@click.option("--replay", is_flag=True, help="Take each row's time from the request (replays of the past only).")
@click.option(
    "--env", "where", type=click.Choice(["here", "auto"]), help="Make the model's environment where this one differs."
)
@click.option("--traces", help="OTLP/HTTP collector that gets a trace of each request.  [default: none]")
@click.option("--memory", help="What one replica may hold, e.g. 512M.  [default: its share of 70 % of the machine's]")
@click.option("--deadline", type=click.FloatRange(min=0.001), help="Seconds a request may take.  [default: 30]")
@click.option("--max-rows", type=click.IntRange(1), default=100_000, show_default=True, help="Rows per request.")
def serve(
    service: str,
    replicas: int | None,
    host: str | None,
    port: int | None,
    environment: str,
    log_mode: str | None,
    replay: bool,
    where: str | None,
    traces: str | None,
    memory: str | None,
    deadline: float | None,
    max_rows: int,
) -> None:
    """Answer predictions for SERVICE with whatever its release says. Runs until told to stop."""
    import asyncio
    import os
    import sys

    import msgspec

    from holdfast.core.errors import NotFound
    from holdfast.core.identity import check_name
    from holdfast.core.project import require_root
    from holdfast.core.traffic import size_bytes
    from holdfast.server import access, logs
    from holdfast.serving import balancer, fleet, limits, release_file
    from holdfast.workspace import Workspace

    check_name(service, "service")
    logs.begin()
    require_root()
    with Workspace.open() as workspace:
        settings = workspace.settings.serve
        declared = _declared(workspace, service)
        released = release_file.path(workspace.path("releases", "."), service, environment).exists()
        known = declared.get("services")
        if known and service not in known and not released:
            raise NotFound.among("service", service, known)
        count = replicas or declared.get("replicas") or _set_or(workspace, "replicas", 1, declared)
        mode = log_mode or declared.get("log") or _set_or(workspace, "prediction_log", "buffered", declared)
        bind = host or settings.host
        tokens = [access.of(settings.token)] if settings.token else []
        rules = access.Access(
            tokens=tokens, hosts=settings.hosts, bind=bind, source=workspace.path("keys", "tokens.json")
        )
        rules.require_safe()
        workspace.secret("release")
        sock = fleet.listen(bind, settings.port if port is None else port)
        address = f"http://{f'[{bind}]' if ':' in bind else bind}:{sock.getsockname()[1]}"
        within = deadline or declared.get("deadline") or 30.0
        wanted = memory or declared.get("memory")
        bound = limits.budget(size_bytes(wanted) if wanted else None, replicas=count)
        auto = (where or settings.environment) == "auto"
        python = _python(workspace, service, environment) if auto else sys.executable
        direct = count == 1
        collector = settings.traces if traces is None else traces
        if collector:
            from holdfast.serving import tracing

            tracing.require(collector)

        def command(name: str, listen: str, lifeline: int) -> list[str]:
            from holdfast.server.dataplane import ReplicaConfig

            told = ReplicaConfig(
                project=str(workspace.root), service=service, environment=environment, name=name, listen=listen,
                lifeline=lifeline, replay=replay, log="durable" if mode == "durable" else "buffered", deadline=within, memory=bound,
                max_rows=max_rows, tokens=tokens if direct else [], hosts=settings.hosts, bind=bind, guarded=direct,
                steps=bool(declared.get("steps")), traces=collector,
            )  # fmt: skip
            return [python, "-m", "holdfast.server.dataplane", msgspec.json.encode(told).decode()]

        run_file = workspace.path("run", f"{service}-{environment}.json")
        # What `holdfast release scale` asks of this process; a wish left by an earlier one is none of ours.
        wish = workspace.path("run", f"{service}-{environment}.replicas")
        wish.unlink(missing_ok=True)

        answering = False

        def announce(pids: list[int]) -> None:
            if not answering:
                return
            temporary = run_file.with_suffix(".tmp")
            state = {
                "address": address,
                "pid": os.getpid(),
                "replicas": pids,
                "balanced": not direct,
                "environment": environment,
                "service": service,
            }
            temporary.write_bytes(msgspec.json.encode(state))
            temporary.replace(run_file)

        from holdfast.server.dataplane import guard

        herd = fleet.Fleet(
            command, replicas=count, listen=sock, guard=None if direct else guard(rules), on_change=announce,
            wanted=lambda: _wanted(wish),
            options=balancer.BalancerOptions(deadline=within + 5),
        )  # fmt: skip

        def ready() -> None:
            nonlocal answering
            answering = True
            announce(herd.pids)
            when = (
                "after its fsync"
                if mode == "durable"
                else "at once (a crash may lose the last 20 ms, a power cut the last second)"
            )
            many = "s" if count > 1 else ""
            say(f"ready: {service} ({environment}) at {address}, {count} replica{many}; predictions are logged {when}")
            if not released:
                say(f"nothing is released in {environment} yet: requests are answered 503 until `holdfast deploy` has")

        try:
            try:
                import uvloop
            except ImportError:
                asyncio.run(herd.run(on_ready=ready))
            else:
                uvloop.run(herd.run(on_ready=ready))
        finally:
            run_file.unlink(missing_ok=True)
            wish.unlink(missing_ok=True)


def _set_or(workspace: Workspace, name: str, plain: Any, declared: dict[str, Any]) -> Any:
    """A setting of [serve] somebody made; of a declared service that says nothing ``plain``, else the setting's default."""
    made = workspace.loaded.origins[f"serve.{name}"] != "default"
    return getattr(workspace.settings.serve, name) if made or "deadline" not in declared else plain


def _python(workspace: Workspace, service: str, environment: str) -> str:
    """The Python that can hold the champion in force: this one, or that of an environment made for it."""
    import sys

    from holdfast.registry import package as packages
    from holdfast.serving import release_file

    release = release_file.read(workspace.path("releases", "."), service, environment, workspace.secret("release"))
    if release is None or release.champion is None:
        return sys.executable
    return python_for(workspace, packages.load(workspace.objects, release.champion.content))


def python_for(workspace: Workspace, package: Package) -> str:
    """The Python that can read a packaged model: this one, or that of an environment made for it."""
    import sys

    import msgspec

    from holdfast.core.errors import NotFound, Refused
    from holdfast.serving import environment as environments

    try:
        environments.check(package)
    except Refused as differs:
        say(f"{differs.message}; making its environment")
    else:
        return sys.executable
    recorded = dict(package.environment)
    if package.environment.get("digest"):
        try:
            recorded = msgspec.json.decode(workspace.objects.get(package.environment["digest"]))
        except NotFound:
            say("notice: the whole environment of the model is not in the store; only its libraries are pinned")
    base = environments.closure(["holdfast", *_readers(package.format)])
    return str(environments.ensure(workspace.path("environments", "."), environments.needs(package, recorded, base)))


def _readers(kind: str) -> list[str]:
    """What reads a format back beside the library that made it."""
    return ["skops"] if kind == "skops" else []


def _wanted(wish: Path) -> int | None:
    try:
        number = int(wish.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return number if 1 <= number <= 64 else None


def _declared(workspace: Workspace, service: str) -> dict[str, Any]:
    """``replicas`` and ``log`` as the project's definitions say, read in a short-lived child: the user's imports would
    otherwise stay in the balancer's memory. Empty where the project does not define the service."""
    import os

    import msgspec

    from holdfast.core.identity import duration_us

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answer: dict[str, Any] = {}
        try:
            project = workspace.project()
            found = project.services.get(service)
            if found is not None:
                answer = {
                    "replicas": found.replicas, "log": found.prediction_log.mode if found.log else None, "memory": found.memory,
                    "deadline": duration_us(found.deadline) / 1e6,
                }  # fmt: skip
            answer["steps"] = service in project.steps
            answer["services"] = list(project.services)
        except BaseException:  # noqa: BLE001, S110 - a model can be served without definitions that run
            pass
        os.write(writer, msgspec.json.encode(answer))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as f:
        data = f.read()
    os.waitpid(child, 0)
    return msgspec.json.decode(data) if data else {}
