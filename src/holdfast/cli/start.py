"""The console script. `holdfast data status` of data that is as it was is asked by prompts and hooks all day: it is answered before
the library that reads command lines is loaded. Everything else, and whatever needs more than that one line, goes the usual way."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the command line and leave the process with its status."""
    if sys.argv[1:2] == ["data"]:
        # Such a process lives for a moment and may hold millions of names: going through them for garbage gives nobody anything.
        gc.set_threshold(200_000)
    if sys.argv[1:] == ["data", "status"] and _says("Data is as its pointers say."):
        os._exit(0)  # nothing is open, and taking the walked names apart would only take time
    from holdfast.cli.main import main as usual

    usual()


def _says(line: str) -> bool:
    """Print the line where it is true."""
    from pathlib import Path

    from holdfast.data import repository, status

    here = Path.cwd()
    try:
        repo = repository.find(here)
        if repo is None or status.stages_of(repo)[0] or status.outs(repo):
            return False
        if status.quarantined(repository.project_at(here) or repo.root):
            return False
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        os._exit(130)
    except Exception:  # noqa: BLE001  (the usual way meets it again, and has the words for it)
        return False
    return True
