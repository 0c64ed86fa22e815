"""``holdfast serve``: replicas of a service behind one address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import say

if TYPE_CHECKING:
    from holdfast.workspace import Workspace


@click.command()
@click.argument("service")
@click.option("--replicas", type=click.IntRange(1, 64), help="Serving processes.  [default: the service's, or [serve]]")
@click.option("--host", help="Address to listen on; anything but loopback needs a token.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one.  [default: 8080]")
@click.option("--environment", type=click.Choice(["production", "staging"]), default="production", show_default=True)
@click.option("--log", "log_mode", type=click.Choice(["durable", "buffered"]), help="When the prediction log promises.")
@click.option("--replay", is_flag=True, help="Take each row's time from the request (replays of the past only).")
@click.option("--deadline", type=float, default=30.0, show_default=True, help="Seconds a request may take.")
@click.option("--max-rows", type=click.IntRange(1), default=100_000, show_default=True, help="Rows per request.")
def serve(
    service: str,
    replicas: int | None,
    host: str | None,
    port: int | None,
    environment: str,
    log_mode: str | None,
    replay: bool,
    deadline: float,
    max_rows: int,
) -> None:
    """Answer predictions for SERVICE with whatever its release says. Runs until told to stop."""
    import asyncio
    import logging
    import os
    import sys

    import msgspec

    from holdfast.core.identity import check_name
    from holdfast.server import access
    from holdfast.serving import balancer, fleet
    from holdfast.workspace import Workspace

    check_name(service, "service")
    logging.basicConfig(
        level=os.environ.get("HOLDFAST_LOG", "INFO"), format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr
    )
    with Workspace.open() as workspace:
        settings = workspace.settings.serve
        declared = _declared(workspace, service)
        count = replicas or declared.get("replicas") or settings.replicas
        mode = log_mode or declared.get("log") or settings.prediction_log
        bind = host or settings.host
        tokens = access.load(workspace.path("keys", "tokens.json"))
        if settings.token:
            tokens.append(access.of(settings.token))
        rules = access.Access(tokens=tokens, hosts=settings.hosts, bind=bind)
        rules.require_safe()
        workspace.secret("release")
        sock = fleet.listen(bind, settings.port if port is None else port)
        address = f"http://{f'[{bind}]' if ':' in bind else bind}:{sock.getsockname()[1]}"
        direct = count == 1

        def command(name: str, listen: str, lifeline: int) -> list[str]:
            from holdfast.server.dataplane import ReplicaConfig

            told = ReplicaConfig(
                project=str(workspace.root), service=service, environment=environment, name=name, listen=listen,
                lifeline=lifeline, replay=replay, log="durable" if mode == "durable" else "buffered", deadline=deadline,
                max_rows=max_rows, tokens=tokens if direct else [], hosts=settings.hosts, bind=bind, guarded=direct,
                steps=bool(declared.get("steps")),
            )  # fmt: skip
            return [sys.executable, "-m", "holdfast.server.dataplane", msgspec.json.encode(told).decode()]

        run_file = workspace.path("run", f"{service}-{environment}.json")

        answering = False

        def announce(pids: list[int]) -> None:
            if not answering:
                return
            temporary = run_file.with_suffix(".tmp")
            state = {
                "address": address,
                "pid": os.getpid(),
                "replicas": pids,
                "environment": environment,
                "service": service,
            }
            temporary.write_bytes(msgspec.json.encode(state))
            temporary.replace(run_file)

        from holdfast.server.dataplane import guard

        herd = fleet.Fleet(
            command, replicas=count, listen=sock, guard=None if direct else guard(rules), on_change=announce,
            options=balancer.BalancerOptions(deadline=deadline + 5),
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

        try:
            try:
                import uvloop
            except ImportError:
                asyncio.run(herd.run(on_ready=ready))
            else:
                uvloop.run(herd.run(on_ready=ready))
        finally:
            run_file.unlink(missing_ok=True)


def _declared(workspace: Workspace, service: str) -> dict[str, Any]:
    """``replicas`` and ``log`` as the project's definitions say, read in a short-lived child: the user's imports would
    otherwise stay in the balancer's memory. Empty where the project does not define the service."""
    import os

    import msgspec

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answer: dict[str, Any] = {}
        try:
            project = workspace.project()
            found = project.services.get(service)
            if found is not None:
                answer = {"replicas": found.replicas, "log": found.log}
            answer["steps"] = service in project.steps
        except BaseException:  # noqa: BLE001, S110 - a model can be served without definitions that run
            pass
        os.write(writer, msgspec.json.encode(answer))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as f:
        data = f.read()
    os.waitpid(child, 0)
    return msgspec.json.decode(data) if data else {}
