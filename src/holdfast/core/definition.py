"""What all definitions have in common."""

from __future__ import annotations

from typing import Any

from holdfast.core.identity import digest


class Definition:
    """Shared by all: a JSON ``spec`` and the ``version`` hashed from it."""

    name: str

    def spec(self) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def version(self) -> str:
        return digest(self.spec())
