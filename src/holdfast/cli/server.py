"""``holdfast server``: the control plane."""

from __future__ import annotations

import click

from holdfast.cli.group import Group
from holdfast.cli.output import emit, json_option, say, table


@click.group(cls=Group, invoke_without_command=True)
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 picks a free one.")
@click.pass_context
def server(ctx: click.Context, host: str | None, port: int | None) -> None:
    """Answer MLflow's clients: tracking, registry, artifacts.

    Point scripts at it with MLFLOW_TRACKING_URI=http://127.0.0.1:5000. Beyond loopback it needs a token
    (`holdfast server token NAME --role write`).
    """
    if ctx.invoked_subcommand is not None:
        return
    import logging

    from holdfast.server.controlplane import serve
    from holdfast.workspace import Workspace

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    with Workspace.open() as workspace:
        settings = workspace.settings.server

        def ready(at: str, on: int) -> None:
            shown = f"[{at}]" if ":" in at else at
            say(f"control plane on http://{shown}:{on} (MLFLOW_TRACKING_URI=http://{shown}:{on})")

        serve(
            workspace,
            host=host or settings.host,
            port=settings.port if port is None else port,
            ready=ready,
        )


@server.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["read", "predict", "write", "approve", "admin"]),
    default="read",
    show_default=True,
    help="What it may do; write, approve and admin may do all before them too.",
)
@json_option
def token(name: str, role: str, as_json: bool) -> None:
    """Make an access token; it is shown once."""
    from holdfast.server import access
    from holdfast.server.controlplane import token_file
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        secret = access.issue(token_file(workspace), name, role)  # type: ignore[arg-type]

    def text() -> None:
        click.echo(secret)
        say(f"token {name!r} with role {role!r}; it is not shown again. MLFLOW_TRACKING_TOKEN={secret[:6]}… uses it.")

    emit({"name": name, "role": role, "token": secret}, as_json=as_json, text=text)


@server.command()
@json_option
def tokens(as_json: bool) -> None:
    """List access tokens (never their secrets)."""
    from holdfast.server import access
    from holdfast.server.controlplane import token_file
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        known = [{"name": t.name, "role": t.role} for t in access.load(token_file(workspace))]
    emit(known, as_json=as_json, text=lambda: table(["name", "role"], [[t["name"], t["role"]] for t in known]))


@server.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Take a token back."""
    from holdfast.core.errors import NotFound
    from holdfast.server import access
    from holdfast.server.controlplane import token_file
    from holdfast.workspace import Workspace

    with Workspace.open() as workspace:
        if not access.revoke(token_file(workspace), name):
            raise NotFound(f"there is no token {name!r}", hint="`holdfast server tokens` lists them")
    say(f"token {name!r} is revoked; a running control plane refuses it from the next request on")


@server.command()
@click.option("--older-than", default="30d", show_default=True, help="Only what was deleted longer ago than this.")
@json_option
def gc(older_than: str, as_json: bool) -> None:
    """Remove deleted runs and experiments for good, and the bytes nothing names any more."""
    import msgspec

    from holdfast.core.identity import duration_us
    from holdfast.server.gc import collect
    from holdfast.workspace import Workspace

    with Workspace.open(create=False) as workspace:
        now = workspace.clock.now()
        found = collect(
            workspace.runs,
            workspace.ledger,
            workspace.objects,
            before=now - duration_us(older_than),
            at=now,
            actor=workspace.actor,
        )
    done = f"{found.objects} objects ({found.bytes:,} bytes) removed, {found.kept} kept because something names them"
    emit(msgspec.to_builtins(found), as_json=as_json, text=lambda: say(done))
