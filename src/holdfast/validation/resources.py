"""What a version takes: bytes of its package, and the memory of a fresh process that loads it and scores rows."""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

from holdfast.core.definitions import Rule
from holdfast.core.errors import Unavailable
from holdfast.core.records import Evidence
from holdfast.validation import elsewhere
from holdfast.validation import rules as naming
from holdfast.validation.evidence import Context

ROWS = 1000


def resources(context: Context, rule: Rule) -> list[Evidence]:
    """Bytes on disk and at the memory's peak."""
    check = naming.key(rule)
    size = float(sum(ref.size for ref in context.package.files.values()))
    out = []
    if context.package.files:
        out.append(
            Evidence(
                check=check, figure=size, low=size, high=size, n=len(context.package.files), unit="B", group="size",
                how="bytes of the package's files",
            )
        )  # fmt: skip
    else:
        out.append(Evidence(check=check, figure=None, group="size", details={"missing": "the package names no files"}))
    return [*out, _memory(context, check)]


def _memory(context: Context, check: str) -> Evidence:
    with tempfile.TemporaryDirectory(prefix="holdfast-check-") as name:
        try:
            said = elsewhere.run(context, "holdfast.validation.resources", Path(name), context.X[:ROWS])
        except Unavailable as error:
            return Evidence(check=check, figure=None, group="memory", details={"missing": error.message})
        except elsewhere.Failed as error:
            details = {"fault": f"a fresh process cannot run the model: {error}"}
            return Evidence(check=check, figure=None, group="memory", details=details)
    peak = float(said.split()[-1])
    how = f"peak of a process that loads the package and scores {min(ROWS, len(context.X))} rows"
    return Evidence(check=check, figure=peak, low=peak, high=peak, n=1, unit="B", group="memory", how=how)


def peak_memory() -> int:
    """Bytes of this process's memory at its peak. Linux carries ``ru_maxrss`` over from the process that started this
    one, so its own high-water mark is read where there is one."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main(folder: str, place: str) -> None:
    """Runs in the fresh process: load, score, say the peak."""
    model, rows = elsewhere.load(folder, place)
    model.scores(rows)
    print(peak_memory())  # noqa: T201  (the answer to the process that asked)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
