"""``python -m benchmarks NAME [options]`` runs ``benchmarks/NAME.py``; without a name, lists them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Run the named benchmark, or all of them in turn; the number of those that failed to run."""
    here = Path(__file__).parent
    names = sorted(p.stem for p in here.glob("*.py") if "\ndef main(" in p.read_text() and not p.stem.startswith("_"))
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    if wanted != "all" and wanted not in names:
        print("benchmarks:", ", ".join(names), "(or: all)")
        return 0 if not wanted else 1
    failed = 0
    rest = sys.argv[2:]
    for name in names if wanted == "all" else [wanted]:
        print(f"== {name}", flush=True)
        sys.argv = [f"benchmarks {name}", *rest]
        failed += bool(importlib.import_module(f"benchmarks.{name}").main() or 0)
    return failed


if __name__ == "__main__":
    sys.exit(main())
