"""Pointers as git remembers them: every commit's, read from the object store without checking anything out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast.core.errors import BadInput, NotFound
from holdfast.data import pointers
from holdfast.data.pointers import Out
from holdfast.data.repository import Repository


@dataclass(frozen=True)
class Reference:
    """Who needs a version: a branch, a tag, a commit, the workspace, or a record of the ledger."""

    who: str
    out: Out


@dataclass(frozen=True)
class Commit:
    """One commit that touched a pointer."""

    sha: str
    at: int
    author: str
    subject: str


def git(repo: Repository, *arguments: str, stdin: bytes | None = None) -> bytes:
    """What git says.

    Raises:
        NotFound: this is no git repository, or git does not know what was asked for.
    """
    if repo.scm is None:
        raise NotFound("this folder is not in a git repository", hint="history needs git")
    done = subprocess.run(
        ["git", "-C", str(repo.scm), *arguments], input=stdin, capture_output=True, check=False, timeout=300
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[:200] or f"status {done.returncode}"
        raise NotFound(f"git {arguments[0]}: {said}", hint="is the name right, and the history complete?")
    return done.stdout


def _refs(repo: Repository) -> list[str]:
    form = "--format=%(refname) %(objectname) %(*objectname)"
    return (
        git(repo, "for-each-ref", form, "refs/heads", "refs/remotes", "refs/tags", "refs/stash").decode().splitlines()
    )


def tips(repo: Repository) -> dict[str, str]:
    """Name → commit of every branch, remote branch and tag, and HEAD."""
    if repo.scm is None:
        return {}
    found: dict[str, str] = {}
    for line in _refs(repo):
        ref, sha, *peeled = line.split(" ")
        kind, _, short = ref.removeprefix("refs/").partition("/")
        label = {"heads": "branch", "remotes": "remote branch", "tags": "tag"}.get(kind, kind)
        found[f"{label} {short}" if short else label] = peeled[0] if peeled and peeled[0] else sha
    with suppress(NotFound):  # nothing was ever committed
        found["HEAD"] = git(repo, "rev-parse", "--verify", "-q", "HEAD").decode().strip()
    return found


def pointers_at(repo: Repository, commit: str) -> dict[str, str]:
    """Path below the git top → blob of every pointer, stage file and lock file of a commit."""
    listed = git(repo, "ls-tree", "-r", "-z", "--full-tree", commit).decode("utf-8", "surrogateescape")
    found: dict[str, str] = {}
    for entry in listed.split("\0"):
        if not entry:
            continue
        meta, _, path = entry.partition("\t")
        mode, kind, blob = meta.split(" ")
        name = path.rsplit("/", 1)[-1]
        if kind == "blob" and mode != "120000" and ((name.endswith(".dvc") and name != ".dvc") or name == "dvc.lock"):
            found[path] = blob
    return found


def blobs(repo: Repository, names: Iterable[str]) -> dict[str, bytes]:
    """The bytes of blobs, in one call."""
    wanted = sorted(set(names))
    if not wanted:
        return {}
    raw = git(repo, "cat-file", "--batch", stdin="\n".join(wanted).encode() + b"\n")
    out: dict[str, bytes] = {}
    at = 0
    while at < len(raw):
        end = raw.index(b"\n", at)
        name, kind, *size = raw[at:end].decode().split(" ")
        if kind == "missing" or not size:
            at = end + 1
            continue
        out[name] = raw[end + 1 : end + 1 + int(size[0])]
        at = end + 2 + int(size[0])
    return out


def outs_of(repo: Repository, path: str, data: bytes) -> list[Out]:
    """What a pointer or lock file of some commit names. One that cannot be read names nothing."""
    assert repo.scm is not None
    file = repo.scm / path
    try:
        text = data.decode("utf-8").replace("\r\n", "\n")
        if file.name == "dvc.lock":
            from holdfast.data import stages

            return stages.outs_of_lock(text, file, repo.root)
        return list(pointers.parse(text, file, repo.root).outs)
    except (BadInput, UnicodeDecodeError):
        return []


def references(repo: Repository, *, all_commits: bool = False) -> Iterator[Reference]:
    """Every version that git needs, with who needs it: branches and tags, or every commit reachable from them."""
    found = tips(repo)
    if all_commits and found:
        shas = git(repo, "rev-list", "--all").decode().split()
        known = set(found.values())
        found |= {f"commit {sha[:10]}": sha for sha in shas if sha not in known}
    trees = {who: pointers_at(repo, sha) for who, sha in found.items()}
    data = blobs(repo, [blob for tree in trees.values() for blob in tree.values()])
    parsed: dict[tuple[str, str], list[Out]] = {}
    for who, tree in trees.items():
        for path, blob in tree.items():
            key = (path, blob)
            if key not in parsed:
                parsed[key] = outs_of(repo, path, data.get(blob, b""))
            for out in parsed[key]:
                yield Reference(who, out)


def at_revision(repo: Repository, revision: str, place: Path) -> Out | None:
    """The out at ``place`` as a revision has it.

    Raises:
        NotFound: git does not know the revision.
    """
    try:
        sha = git(repo, "rev-parse", "--verify", "-q", f"{revision}^{{commit}}").decode().strip()
    except NotFound:
        if repo.scm is None:
            raise
        raise NotFound(
            f"git has no revision {revision!r}",
            hint="name a commit, branch or tag; `holdfast data log` shows the commits",
        ) from None
    tree = pointers_at(repo, sha)
    data = blobs(repo, tree.values())
    for path, blob in tree.items():
        for out in outs_of(repo, path, data.get(blob, b"")):
            if out.place == place:
                return out
    return None


def commits_of(repo: Repository, files: Sequence[Path]) -> list[Commit]:
    """Commits that touched any of the files, newest first; none before the first one.

    Raises:
        NotFound: this is no git repository.
    """
    if repo.scm is None:
        raise NotFound("this folder is not in a git repository", hint="history needs git")
    names = [os.path.relpath(f, repo.scm) for f in files]
    if not git(repo, "rev-list", "--all", "--max-count=1"):
        return []
    raw = git(repo, "log", "--format=%H%x1f%ct%x1f%an <%ae>%x1f%s%x1e", "--", *names).decode("utf-8", "replace")
    found = []
    for record in raw.split("\x1e"):
        fields = record.strip("\n").split("\x1f")
        if len(fields) == 4:
            found.append(Commit(fields[0], int(fields[1]) * 1_000_000, fields[2], fields[3]))
    return found
