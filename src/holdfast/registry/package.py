"""A model as it is shipped: store its manifest, load it, lay its files out in a folder.

The content identity of a package is the SHA-256 of its canonical manifest, which names every file by SHA-256: who holds
the identity holds the bytes. A manifest is an object in the store like any file.
"""

from __future__ import annotations

import hmac
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from holdfast.core.errors import BadInput, Damaged, NotFound
from holdfast.core.identity import canonical, file_sha256
from holdfast.core.ports import Objects
from holdfast.core.records import SIGNATURES, FileRef, Package


def store(objects: Objects, package: Package) -> str:
    """Put the manifest into the store; its SHA-256 is the model's content.

    Raises:
        NotFound: a file the manifest names is not in the store: a package is whole or it is not.
    """
    for name, ref in package.files.items():
        check_file_name(name)
        if not objects.exists(ref.sha256):
            raise NotFound(
                f"package {package.name!r} names {name!r}, whose bytes are not in the store",
                hint="put the file into the store first",
            )
    roles = {
        "model": package.model_file,
        "original": package.original_file,
        "golden": package.golden_file,
        "reference": package.reference_file,
    }
    for role, named in roles.items():
        if named is not None and named not in package.files:
            raise BadInput(f"package {package.name!r} has no file {named!r}, which it calls its {role} file")
    return objects.put(canonical(package))


def load(objects: Objects, content: str) -> Package:
    """The manifest with this content.

    Raises:
        NotFound: the store has no such object.
        BadInput: the object is no package; versions made by an MLflow client are read by ``registry.foreign``.
        Damaged: stored bytes have another hash.
    """
    data = objects.get(content)
    try:
        return msgspec.json.decode(data, type=Package)
    except msgspec.DecodeError:
        raise BadInput(
            f"{content[:12]} is not a Holdfast package",
            hint="an MLflow client logged it: `holdfast models package NAME@VERSION --data ROWS` makes a version that can be served",
        ) from None


def unpack(objects: Objects, package: Package, folder: Path) -> Path:
    """Lay the package's files out in ``folder``, each verified; doing it twice changes nothing. Returns ``folder``.

    The folder appears whole or not at all: files are gathered beside it and renamed into place.

    Raises:
        NotFound: a file is not in the store.
        Damaged: a file's bytes, in the store or already in the folder, are not what the manifest says.
    """
    if folder.is_dir():
        verify(package, folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.parent / f".{folder.name}.{secrets.token_hex(6)}"
    work.mkdir()
    try:
        for name, ref in package.files.items():
            target = work / check_file_name(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(objects.fetch(ref.sha256), target)
            target.chmod(0o444)
        verify(package, work)
        try:
            work.rename(folder)
        except OSError:
            # Somebody else unpacked the same content meanwhile.
            if not folder.is_dir():
                raise
            verify(package, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def verify(package: Package, folder: Path) -> None:
    """Check every file of an unpacked package against the manifest.

    Raises:
        Damaged: a file is missing or has other bytes.
    """
    for name, ref in package.files.items():
        path = folder / check_file_name(name)
        if (
            path.is_symlink()
            or not path.is_file()
            or path.stat().st_size != ref.size
            or file_sha256(path) != ref.sha256
        ):
            raise Damaged(
                f"{name!r} of package {package.name!r} is not what its manifest says",
                hint=f"remove {folder} and run again; it is unpacked afresh from the store",
            )


def signatures(sha256s: Iterable[str], key: bytes) -> bytes:
    """What ``SIGNATURES`` holds: this store made these bytes."""
    return canonical({value: sign(value, key) for value in sorted(sha256s)})


def sign_file(objects: Objects, files: Mapping[str, FileRef], sha256: str, key: bytes) -> dict[str, FileRef]:
    """The files of a package, and beside them this store's signature of the one that runs code (or of the whole tree)."""
    data = signatures([sha256], key)
    return {**files, SIGNATURES: FileRef(sha256=objects.put(data), size=len(data))}


def vouched(
    package: Package, folder: Path, key: bytes, *, also: Callable[[str], bool] | None = None
) -> Callable[[str], bool]:
    """Says of a SHA-256 whether its bytes may run code: the package carries this store's signature of them, or ``also``
    (the operator's list of trusted hashes) has them. A signature made with another store's key is none."""
    made: dict[str, str] = {}
    if SIGNATURES in package.files:
        data = (folder / SIGNATURES).read_bytes()
        if file_sha256(folder / SIGNATURES) == package.files[SIGNATURES].sha256:
            try:
                made = msgspec.json.decode(data, type=dict[str, str])
            except msgspec.DecodeError:
                made = {}

    def ask(value: str) -> bool:
        return signed_by(value, made.get(value, ""), key) or (also is not None and also(value))

    return ask


def sign(content: str, key: bytes) -> str:
    """HMAC-SHA256 (64 hex) over the content identity with the store's key: this store made these bytes."""
    return hmac.new(key, b"holdfast package " + content.encode(), sha256).hexdigest()


def signed_by(content: str, signature: str, key: bytes) -> bool:
    """Whether ``signature`` is this store's over ``content``."""
    return hmac.compare_digest(sign(content, key), signature)


def check_file_name(name: str) -> str:
    """A name inside a package: relative, plain parts, nothing that leaves the folder.

    Raises:
        BadInput: it is not.
    """
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or any(p in ("", ".", "..") for p in parts):
        raise BadInput(f"{name!r} cannot be a file of a package", hint="use a plain relative path")
    return name
