"""Prints this Python's environment as JSON, in whatever environment that is: the standard library only."""

import hashlib
import importlib.metadata
import json
import platform
import re
import sys

packages, lock = {}, {}
for found in importlib.metadata.distributions():
    name = found.metadata["Name"]
    if not name:
        continue
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in packages:
        continue  # the first on sys.path is the one that is imported
    record, origin = found.read_text("RECORD"), found.read_text("direct_url.json")
    packages[name] = found.version
    lock[name] = {
        "version": found.version,
        "record_sha256": hashlib.sha256(record.encode()).hexdigest() if record else None,
        "editable": bool(origin and '"editable"' in origin),
    }
json.dump(
    {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": dict(sorted(packages.items())),
        "lock": dict(sorted(lock.items())),
    },
    sys.stdout,
)
