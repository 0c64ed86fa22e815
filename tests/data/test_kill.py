"""SIGKILL at random moments: the repository is usable at once and no object has another's bytes."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.data.conftest import content, fill

from holdfast.data import cache as caches
from holdfast.data import pointers, snapshot, status, transfer
from holdfast.data.repository import Repository

VICTIM = """
import sys
from pathlib import Path
from holdfast.data import repository, snapshot, transfer, gc, checkout
repo = repository.open_at(Path.cwd())
print("ready", flush=True)
while True:
    if sys.argv[1] == "add":
        import random
        (Path("data") / f"{random.randrange(50)}.bin").write_bytes(random.randbytes(3000))
        snapshot.add(repo.root, Path("data"))
    elif sys.argv[1] == "push":
        import shutil
        shutil.rmtree("../store", ignore_errors=True)
        transfer.push(repo)
    elif sys.argv[1] == "pull":
        import shutil
        shutil.rmtree(repo.cache); shutil.rmtree("data")
        transfer.pull(repo)
    else:
        gc.collect(repo)
"""


def sound(cache: caches.Cache) -> None:
    for md5 in cache.all():
        data = Path(cache.path(md5)).read_bytes()
        assert hashlib.md5(data).hexdigest() == md5[:32], md5


@pytest.mark.parametrize("verb", ["add", "push", "pull", "gc"])
@pytest.mark.parametrize("rounds", [2, pytest.param(25, marks=pytest.mark.soak)])
def test_killed_anywhere(repo: Repository, verb: str, rounds: int) -> None:
    rng = random.Random(f"{verb}{rounds}")
    fill(repo.root / "data", {f"{i}.bin": rng.randbytes(3000) for i in range(50)})
    snapshot.add(repo.root, Path("data"))
    transfer.push(repo)
    for _ in range(rounds):
        process = subprocess.Popen([sys.executable, "-c", VICTIM, verb], stdout=subprocess.PIPE, env={**os.environ})
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.random() * 0.4)
        process.kill()
        process.wait()
        sound(caches.of(repo))
        sound(caches.Cache(repo.root.parent / "store"))
        out = pointers.read(repo.root / "data.dvc", repo.root).outs[0]
        assert out.md5 is not None
        if verb in ("add", "gc"):
            named = caches.of(repo).members(out.md5)
            assert all(caches.of(repo).has(md5) for md5 in named.values())
            snapshot.add(repo.root, Path("data"))
        if verb == "push":
            transfer.push(repo, verify=True)
        if verb == "pull":
            transfer.pull(repo, force=True)
            assert len(content(repo.root / "data")) == 50
        assert status.outs(repo) == []
