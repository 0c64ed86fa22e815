"""``python -m benchmarks NAME [options]`` runs ``benchmarks/NAME.py``; without a name, lists them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    here = Path(__file__).parent
    names = sorted(p.stem for p in here.glob("*.py") if "\ndef main(" in p.read_text() and not p.stem.startswith("_"))
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        print("benchmarks:", ", ".join(names))
        return 0 if len(sys.argv) < 2 else 1
    module = importlib.import_module(f"benchmarks.{sys.argv[1]}")
    sys.argv = [f"benchmarks {sys.argv[1]}", *sys.argv[2:]]
    return int(module.main() or 0)


if __name__ == "__main__":
    sys.exit(main())
