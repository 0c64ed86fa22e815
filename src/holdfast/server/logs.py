"""How much the long-running commands say: HOLDFAST_LOG, on stderr."""

from __future__ import annotations

import logging
import os
import sys

from holdfast.core.errors import BadConfig

LEVELS = ("debug", "info", "warning", "error", "critical")


def begin() -> None:
    """Log to stderr from the level that HOLDFAST_LOG names (info without it).

    Raises:
        BadConfig: it names none.
    """
    level = os.environ.get("HOLDFAST_LOG", "info").strip().lower() or "info"
    if level not in LEVELS:
        raise BadConfig(f"environment variable HOLDFAST_LOG: {level!r} is no level", hint=f"use {', '.join(LEVELS)}")
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
