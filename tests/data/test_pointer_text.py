"""A pointer that is changed without a YAML library is, byte for byte, what the library would have written."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from holdfast.data import pointers

NAMES = ["data", "a-b.c", "d/e_f", "True1", "x" * 59, "x" * 70, "y.csv", "null"]


def _md5(rng: random.Random) -> str:
    return f"{rng.getrandbits(128):032x}" + rng.choice(["", ".dir"])


def _out(rng: random.Random, path: str) -> dict[str, Any]:
    out: dict[str, Any] = {"md5": _md5(rng), "size": rng.randrange(10**6)}
    if rng.random() < 0.5:
        out["nfiles"] = rng.randrange(100)
    if rng.random() < 0.3:
        out["isexec"] = rng.random() < 0.5
    if rng.random() < 0.8:
        out["hash"] = "md5"
    out["path"] = path
    keys = list(out)
    if rng.random() < 0.3:
        rng.shuffle(keys)
    return {key: out[key] for key in keys}


@pytest.mark.parametrize("seed", range(150))
def test_the_same_bytes_as_by_the_library(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    paths = rng.sample(NAMES, rng.choice([1, 1, 2, 3]))
    text = pointers.dump_yaml({"outs": [_out(rng, path) for path in paths]})
    content = {
        rng.choice(paths): pointers.fields(
            md5=_md5(rng), size=rng.randrange(10**5), nfiles=rng.choice([None, 3]), isexec=rng.random() < 0.3
        )
    }
    file = Path("data.dvc")
    plain = pointers.render_changed(text, file, content)
    monkeypatch.setattr(pointers, "_parse_plain", lambda text: None)
    assert plain == pointers.render_changed(text, file, content)


def test_what_people_wrote_stays() -> None:
    text = "outs:\n- md5: " + "a" * 32 + "  # by hand\n  size: 1\n  path: data\nmeta:\n  owner: me # still\n"
    changed = pointers.render_changed(text, Path("data.dvc"), {"data": pointers.fields(md5="b" * 32, size=2)})
    assert "by hand" in changed
    assert "owner: me # still" in changed
    assert "b" * 32 in changed
