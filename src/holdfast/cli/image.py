"""``holdfast image`` and ``holdfast manifests``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.output import say

if TYPE_CHECKING:
    from holdfast.workspace import Workspace


@click.command()
@click.argument("model", metavar="MODEL@VERSION")
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@click.option("--service", help="Name it answers under.  [default: the model's]")
@click.option("--base", required=True, help="Base image, pinned: name@sha256:…")
@click.option(
    "--wheel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Holdfast's wheel, when not from an index.",
)
@click.option(
    "--lock",
    "lock_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A lock with hashes to install.",
)
@click.option("--hashes", is_flag=True, help="Ask the index for the hash of every package (for this platform).")
@click.option("--build", is_flag=True, help="Build with docker or podman after writing.")
@click.option("--tag", help="Tag of the built image.")
def image(
    model: str,
    target: Path,
    service: str | None,
    base: str,
    wheel: Path | None,
    lock_file: Path | None,
    hashes: bool,
    build: bool,
    tag: str | None,
) -> None:
    """Write a container build context for MODEL@VERSION into TARGET: the model, a lock, a non-root Dockerfile."""
    from holdfast.core.errors import Conflict, Refused
    from holdfast.core.records import SIGNATURES
    from holdfast.lifecycle import approval
    from holdfast.registry import package as packages
    from holdfast.registry import versions
    from holdfast.serving import environment
    from holdfast.serving import image as images
    from holdfast.workspace import Workspace

    if target.exists() and any(target.iterdir()):
        raise Conflict(f"{target} is not empty", hint="give a new folder")
    with Workspace.open(create=False) as workspace:
        found = versions.resolve(workspace.ledger, model)
        name = service or found.name
        approval.require_version(workspace, found, service=name, at=workspace.clock.now())
        text = images.dockerfile(
            base=base, service=name, local_wheel=wheel.name if wheel else None, hashed=lock_file is not None or hashes
        )
        package = packages.load(workspace.objects, found.content)
        if SIGNATURES in package.files:
            raise Refused(
                f"{found.name}@{found.version} is code, signed with this store's key, which an image does not carry",
                hint="package the model in a safe format: ONNX, skops, XGBoost, LightGBM",
                number="HF455",
            )
        # The lock pins what is installed here: the container could not serve it otherwise either.
        environment.check(package)
        pins = environment.closure(environment.roots(package))
        if wheel is not None:
            pins.pop("holdfast", None)
        if lock_file is not None:
            lock = lock_file.read_text()
            images.check_lock(lock, pins)
        else:
            lock = images.lock(pins, environment.hashes(pins) if hashes else None)
        target.mkdir(parents=True, exist_ok=True)
        (target / "Dockerfile").write_text(text)
        (target / "requirements.lock").write_text(lock)
        if wheel is not None:
            (target / wheel.name).write_bytes(wheel.read_bytes())
        _workspace(workspace, target / "workspace", name, found.version, found.content)
    say(f"build context for {found.name}@{found.version} in {target}")
    if build:
        _build(target, tag or f"{images.dns_name(name)}:{found.version}")


def _workspace(workspace: Workspace, target: Path, service: str, version: int, content: str) -> None:
    """A store that holds one version and a release of it, and nothing else of ours."""
    import hashlib
    import shutil

    from holdfast.core.records import Arm, Release
    from holdfast.registry import package as packages
    from holdfast.serving import release_file
    from holdfast.workspace import Workspace

    package = packages.load(workspace.objects, content)
    home = target / ".holdfast"
    target.mkdir(parents=True)
    settings = "# Set HOLDFAST_ONLINE_URL to the shared feature store where the model has features.\n"
    (target / "holdfast.toml").write_text(settings)
    with Workspace.open(target) as baked:
        for ref in package.files.values():
            baked.objects.put_file(workspace.objects.fetch(ref.sha256))
        packages.store(baked.objects, package)
    shutil.rmtree(home / "objects" / "tmp", ignore_errors=True)
    # Not the workspace's key: it only ties the baked-in release to the baked-in version; the image's digest is trusted.
    key = hashlib.sha256(b"holdfast image " + content.encode()).digest()
    (home / "keys").mkdir(parents=True)
    (home / "keys" / "release").write_bytes(key)
    # Nothing may be written beside it in a container: every key a replica asks for has to be there.
    (home / "keys" / "package").write_bytes(hashlib.sha256(b"holdfast image package " + content.encode()).digest())
    # What the log may keep goes with the version; hashes must be the same everywhere, so their key goes too.
    log = _log_policy(workspace, service)
    if log.get("redact") or log.get("key") == "hash":
        (home / "keys" / "redaction").write_bytes(workspace.secret("redaction"))
    release = Release(
        service=service, environment="production", model=package.name, sequence=1,
        champion=Arm(version=version, content=content), reason="built into the image", log=log,
    )  # fmt: skip
    release_file.write(home / "releases", release, key)
    for lock in (home / "releases").glob(".*"):
        lock.unlink()
    for name in ("predictions", "labels", "run", "packages"):
        (home / name).mkdir()
        (home / name / ".keep").touch()


def _log_policy(workspace: Workspace, service: str) -> dict[str, Any]:
    """What the service's prediction log may keep: as its release says, else as the project declares it."""
    from holdfast.core.errors import NotFound
    from holdfast.lifecycle import release

    live = release.current(workspace.ledger, service, "production")
    if live is not None:
        return dict(live.log)
    try:
        found = workspace.project().services.get(service)
    except NotFound:
        return {}
    return {} if found is None else found.prediction_log.policy


def _build(folder: Path, tag: str) -> None:
    import shutil
    import subprocess

    from holdfast.core.errors import Unavailable

    builder = shutil.which("docker") or shutil.which("podman")
    if builder is None:
        raise Unavailable("there is no docker or podman here", hint=f"build {folder} where there is one")
    done = subprocess.run([builder, "build", "--tag", tag, str(folder)], check=False)
    if done.returncode:
        raise Unavailable(f"the image was not built (status {done.returncode})", hint="see the builder's message above")
    say(f"built {tag}")


@click.command()
@click.argument("service")
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@click.option("--image", "reference", required=True, help="The image to run.")
@click.option("--namespace", default="default", show_default=True, help="Kubernetes namespace.")
@click.option("--replicas", type=click.IntRange(1, 1000), default=2, show_default=True, help="Pods.")
@click.option(
    "--most", type=click.IntRange(1, 1000), default=8, show_default=True, help="Replicas the autoscaler may go to."
)
@click.option("--cpu", default="1", show_default=True, help="CPU of each pod, in Kubernetes' words.")
@click.option("--memory", default="512Mi", show_default=True, help="Memory of each pod, in Kubernetes' words.")
def manifests(
    service: str, target: Path, reference: str, namespace: str, replicas: int, most: int, cpu: str, memory: str
) -> None:
    """Write Kubernetes and compose files for SERVICE into TARGET."""
    from holdfast.serving import image as images

    sizes = images.Sizes(cpu=cpu, memory=memory, replicas=replicas, most=most)
    written = images.kubernetes(service, image=reference, namespace=namespace, sizes=sizes)
    target.mkdir(parents=True, exist_ok=True)
    for name, manifest in written.items():
        _yaml(manifest, target / name)
    _yaml(images.compose(service, image=reference, replicas=replicas), target / "compose.yaml")
    (target / "haproxy.cfg").write_text(images.haproxy_config(replicas=replicas))
    say(
        f"{len(written) + 2} files in {target}; make the Secret {images.dns_name(service)}-token with the key `token` first"
    )


def _yaml(value: Any, path: Path) -> None:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    with path.open("w") as f:
        yaml.dump(value, f)
