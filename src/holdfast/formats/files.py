"""Reading a package's files: bounded, inside the folder, never through a link, hash checked before any parsing."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from io import BytesIO
from pathlib import Path

from holdfast.core.errors import BadInput, Damaged, NotFound, TooMuch
from holdfast.core.records import Package

MODEL_LIMIT = 4 << 30
"""Most bytes a model file may have."""

ARCHIVE_BYTES = 4 << 30
ARCHIVE_COUNT = 10_000
ARCHIVE_RATIO = 200


def read_verified(folder: Path, package: Package, name: str, *, limit: int = MODEL_LIMIT) -> bytes:
    """The bytes of one file of an unpacked package, only if their SHA-256 is the manifest's.

    The bytes returned are the bytes hashed, so a file swapped meanwhile is not seen.

    Raises:
        NotFound: the manifest does not list it, or the folder does not hold it.
        TooMuch: it is larger than ``limit``.
        Damaged: its bytes are not what the manifest names.
    """
    reference = package.files.get(name)
    if reference is None:
        raise NotFound.among("file of package " + package.name, name, package.files)
    if reference.size > limit:
        raise TooMuch(f"{name} has {reference.size} bytes; at most {limit} are read as a model")
    data = read_bounded(folder, name, limit=reference.size)
    if hashlib.sha256(data).hexdigest() != reference.sha256:
        raise Damaged(
            f"{name} of package {package.name} is not what its manifest says",
            hint="unpack the package again; if it stays, the store is damaged: run `holdfast data scrub`",
        )
    return data


def read_bounded(folder: Path, name: str, *, limit: int = MODEL_LIMIT) -> bytes:
    """A regular file inside ``folder``, at most ``limit`` bytes, following no link.

    Raises:
        BadInput: the name leads outside, or to something that is not a regular file.
        NotFound: there is none.
        TooMuch: it is larger.
    """
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or any(p in ("", ".", "..") for p in parts):
        raise BadInput(f"{name!r} is not the name of a file in a package")
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = deeper
        fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
    except FileNotFoundError:
        raise NotFound(f"{name} is not in {folder.name}", hint="unpack the package again") from None
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}", hint="packages hold plain files, no links") from None
    finally:
        os.close(handle)
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise BadInput(f"{name} is not a regular file")
    with os.fdopen(fd, "rb") as f:
        if info.st_size > limit:
            raise TooMuch(f"{name} has {info.st_size} bytes, more than the {limit} expected")
        data = f.read(limit + 1)
    if len(data) > limit:
        raise TooMuch(f"{name} grew past {limit} bytes while it was read")
    return data


def read_zip(data: bytes, *, what: str) -> dict[str, bytes]:
    """All members of a zip, unpacked in memory under bounds on count, bytes and ratio; plain names only.

    Raises:
        BadInput: it is no zip, or has odd members (links, folders up, doubled or encrypted names).
        TooMuch: it would unpack to more than the bounds.
    """
    try:
        archive = zipfile.ZipFile(BytesIO(data))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise BadInput(f"{what} is not a readable zip archive: {error}") from None
    with archive:
        members = archive.infolist()
        if len(members) > ARCHIVE_COUNT:
            raise TooMuch(f"{what} holds {len(members)} files; at most {ARCHIVE_COUNT} are read")
        budget = min(ARCHIVE_BYTES, max(ARCHIVE_RATIO * len(data), 16 << 20))
        if sum(m.file_size for m in members) > budget:
            raise TooMuch(
                f"{what} unpacks to more than {budget} bytes", hint="this looks like a zip bomb; it was not unpacked"
            )
        out: dict[str, bytes] = {}
        for member in members:
            name = member.filename
            mode = member.external_attr >> 16
            odd = (
                name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/") or member.flag_bits & 1
            )
            if odd or (mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR)) or name in out:
                raise BadInput(f"{what} holds {name!r}, which is not a plain file")
            if member.is_dir():
                continue
            out[name] = _unpack(archive, member, budget, what)
            budget -= len(out[name])
        return out


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: int, what: str) -> bytes:
    """One member; its declared size is a claim, so reading stops at the claim plus one byte."""
    try:
        with archive.open(member) as f:
            data = f.read(min(member.file_size, budget) + 1)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError, RuntimeError) as error:
        raise BadInput(f"{what}: {member.filename} cannot be unpacked: {error}") from None
    except Exception as error:  # noqa: BLE001  other people's parsers raise anything; all of it is bad input here
        raise BadInput(f"{what}: {member.filename} cannot be unpacked: {error}") from None
    if len(data) > member.file_size or len(data) > budget:
        raise TooMuch(f"{what}: {member.filename} unpacks to more than it says", hint="this looks like a zip bomb")
    return data
