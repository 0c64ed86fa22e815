"""The release as replicas see it: one small signed file per service and environment, replaced whole, polled.

Nothing on the path of a prediction touches the ledger; this file is all a replica needs to know what answers.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from holdfast.core.errors import Conflict, Damaged
from holdfast.core.identity import canonical, check_name
from holdfast.core.records import Release


def path(folder: Path, service: str, environment: str) -> Path:
    """Where the file of a service and environment lies."""
    return folder / f"{check_name(service, 'service')}.{check_name(environment, 'environment')}.json"


def sign(release: Release, key: bytes) -> str:
    """HMAC-SHA256 (64 hex) over the canonical form with an empty signature, and without ``log`` where that is empty."""
    value = msgspec.to_builtins(msgspec.structs.replace(release, signature=""))
    if not release.log:
        del value["log"]
    return hmac.new(key, canonical(value), hashlib.sha256).hexdigest()


def write(folder: Path, release: Release, key: bytes) -> None:
    """Sign and publish. Durable and visible whole on return; writing the same release twice changes nothing.

    Raises:
        Conflict: a release with a higher sequence, or another with the same one, is already there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = path(folder, release.service, release.environment)
    signed = msgspec.structs.replace(release, signature=sign(release, key))
    with _locked(folder / f".{target.name}.lock"):
        known = read(folder, release.service, release.environment, key)
        if known is not None:
            if known.sequence == signed.sequence and known.signature == signed.signature:
                return
            if known.sequence >= signed.sequence:
                raise Conflict(
                    f"release {signed.sequence} of {release.service!r} is not newer than {known.sequence}",
                    hint="somebody moved traffic meanwhile: look at `holdfast status` and run again",
                )
        temporary = folder / f".{target.name}.{os.getpid()}.tmp"
        with temporary.open("wb") as f:
            f.write(canonical(signed))
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(target)
        folder_fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)


def read(folder: Path, service: str, environment: str, key: bytes) -> Release | None:
    """The release in place, its signature verified; None where nothing was ever released.

    Raises:
        Damaged: the file is not a release, is for another service, or was not signed with this workspace's key.
    """
    target = path(folder, service, environment)
    try:
        data = target.read_bytes()
    except FileNotFoundError:
        return None
    try:
        release = msgspec.json.decode(data, type=Release)
    except msgspec.MsgspecError as error:
        raise Damaged(
            f"{target.name} is not a release: {error}", hint="release again: `holdfast release promote`"
        ) from None
    if not hmac.compare_digest(release.signature, sign(release, key)):
        raise Damaged(
            f"{target.name} was not signed by this workspace", hint="release again from the workspace that owns it"
        )
    if (release.service, release.environment) != (service, environment):
        raise Damaged(f"{target.name} is a release of {release.service!r} in {release.environment}")
    return release


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
