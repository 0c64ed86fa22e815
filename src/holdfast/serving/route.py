"""Which version answers a row: a pure hash of (service, salt, key), equal on all replicas and after restarts."""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal, NamedTuple

from holdfast.core.errors import Unavailable
from holdfast.core.records import Arm, Release

ArmName = Literal["champion", "challenger"]
_SCALE = 100.0 / 2**64


class Choice(NamedTuple):
    """The arm that answers, and its exact content."""

    arm: ArmName
    version: int
    content: str


def point(service: str, salt: str, key: str) -> float:
    """Where a key stands in [0, 100): uniform over keys, fixed for a key while the salt stays.

    The first 8 bytes, big endian, of BLAKE2b over the length-prefixed parts, so that no two triples collide by gluing.
    """
    parts = (service.encode(), salt.encode(), key.encode("utf-8", "surrogatepass"))
    text = b"".join(len(p).to_bytes(4, "big") + p for p in parts)
    return min(int.from_bytes(blake2b(text, digest_size=8).digest(), "big") * _SCALE, 99.99999999999999)


def choose(release: Release, key: str) -> Choice:
    """The arm for ``key``. A key given to the challenger at one weight stays there at every higher weight.

    Raises:
        Unavailable: the release has no champion.
    """
    champion = release.champion
    if champion is None:
        raise Unavailable(
            f"service {release.service!r} has no champion in {release.environment}", hint="deploy a version first"
        )
    challenger = release.challenger
    if (
        challenger is not None
        and challenger.weight > 0
        and point(release.service, release.salt, key) < challenger.weight
    ):
        return _choice("challenger", challenger)
    return _choice("champion", champion)


def _choice(name: ArmName, arm: Arm) -> Choice:
    return Choice(name, arm.version, arm.content)
