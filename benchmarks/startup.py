"""Promise: `import holdfast` and `holdfast --help` stay under 100 ms of CPU above bare Python.

    python -m benchmarks startup

CPU (user + system) of whole processes, bare Python and ours in turn; the median of the differences, pair by pair. Modules are
compiled once and kept, as in any installation.
"""

from __future__ import annotations

import os
import statistics
import sys

RUNS = 15
LIMIT_MS = 100.0


def cpu_ms(*arguments: str) -> float:
    """User + system milliseconds of one child Python."""
    pid = os.posix_spawn(
        sys.executable, [sys.executable, *arguments], {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )  # fmt: skip
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"python {' '.join(arguments)} ended with {status}")
    return 1000 * (usage.ru_utime + usage.ru_stime)


def main() -> None:
    """Measure and print; nothing is asserted on a noisy machine, the line says whether the promise held."""
    cases = {
        "import holdfast": ("-c", "import holdfast"),
        "import holdfast; holdfast.Service": ("-c", "import holdfast; holdfast.Service"),
        "holdfast --help": ("-m", "holdfast.cli.main", "--help"),
    }
    for arguments in cases.values():
        cpu_ms(*arguments)
    print(f"{'case':<36}{'ms CPU above bare Python':>26}   min … max   of {RUNS} pairs")
    for name, arguments in cases.items():
        extra = sorted(cpu_ms(*arguments) - cpu_ms("-c", "pass") for _ in range(RUNS))
        middle = statistics.median(extra)
        held = "held" if middle <= LIMIT_MS else "NOT HELD"
        print(f"{name:<36}{middle:>26.1f}   {extra[0]:.1f} … {extra[-1]:.1f}   promise of {LIMIT_MS:.0f} ms {held}")


if __name__ == "__main__":
    main()
