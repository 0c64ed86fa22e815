"""What a script did, as its processes noted it while ``holdfast run`` watched: files read, seeds set, notebook cells."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from holdfast.core.records import Json

OBSERVER = Path(__file__).parent / "observer"


class Observed(msgspec.Struct, frozen=True):
    """Args:
    processes: how many Pythons noted anything; 0: nothing could be seen (another language, ``python -S`` or ``-I``).
    reads: absolute paths opened for reading that no process of the run had written before.
    seeds: generators that were seeded.
    cells: notebook cells in the order they ran: ``count``, ``source``, ``ok``.
    """

    processes: int = 0
    reads: list[str] = []
    seeds: list[str] = []
    cells: list[Json] = []


def variables(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that let every Python a command starts take notes in ``folder``."""
    before = environment.get("PYTHONPATH", "")
    return {
        "HOLDFAST_OBSERVE": str(folder),
        "PYTHONPATH": f"{OBSERVER}{os.pathsep}{before}" if before else str(OBSERVER),
    }


def read_back(folder: Path) -> Observed:
    """What was noted; a last line that a kill cut off is passed over."""
    files = sorted(folder.glob("*.jsonl"), key=lambda f: (f.stat().st_mtime_ns, f.name))
    reads: dict[str, None] = {}
    written: set[str] = set()
    seeds: set[str] = set()
    cells: list[Json] = []
    for file in files:
        for line in file.read_bytes().splitlines():
            try:
                note = msgspec.json.decode(line)
            except msgspec.MsgspecError:
                continue
            match note:
                case {"kind": "read", "path": str(path)} if path not in written:
                    reads[path] = None
                case {"kind": "write", "path": str(path)} if path not in reads:
                    written.add(path)
                case {"kind": "seed", "generator": str(name)}:
                    seeds.add(name)
                case {"kind": "cell", "source": str(source)}:
                    cells.append({"count": note.get("count"), "source": source, "ok": bool(note.get("ok"))})
                case _:
                    pass
    ours = f"{Path(sys.prefix).resolve()}{os.sep}"
    return Observed(
        processes=len(files),
        reads=sorted(p for p in reads if p not in written and not p.startswith(ours)),
        seeds=sorted(seeds),
        cells=cells,
    )
