"""What of an address may be seen."""

from __future__ import annotations

import pytest

from holdfast.core import definitions as d
from holdfast.core.addresses import expanded, hide, public
from holdfast.core.errors import BadConfig


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        ("postgresql://app:hunter2@db:5432/shop", "postgresql://db:5432/shop"),
        ("postgresql://app:hun/ter@2@db/shop?sslpassword=x", "postgresql://db/shop"),
        ("postgresql://app@db/shop", "postgresql://db/shop"),
        ("postgresql://app:${PW}@db/shop", "postgresql://db/shop"),
        ("${SHOP_URL}", "${SHOP_URL}"),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
        ("sqlite:///shop.db", "sqlite:///shop.db"),
        ("s3://bucket/folder", "s3://bucket/folder"),
        ("https://h/x?sig=abc#d", "https://h/x"),
        ("hunter2", "…"),
    ],
)
def test_only_what_is_no_secret_is_seen(address: str, seen: str) -> None:
    assert public(address) == seen


def test_a_source_hides_its_secrets_from_spec_hash_and_repr() -> None:
    one = d.Source("s", url="postgresql://app:hunter2@db/shop", query="SELECT 1")
    two = d.Source("s", url="postgresql://other:${PW}@db/shop", query="SELECT 1")
    assert one.version == two.version != d.Source("s", url="postgresql://db/else", query="SELECT 1").version
    assert "hunter2" not in repr(one) and "hunter2" not in str(one.spec())


def test_variables_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", "hunter2")
    assert expanded("postgresql://a:${PW}@h/d", "source 's'") == "postgresql://a:hunter2@h/d"
    monkeypatch.delenv("PW")
    with pytest.raises(BadConfig, match="source 's' needs the environment variable PW"):
        expanded("postgresql://a:${PW}@h/d", "source 's'")


def test_messages_of_others_lose_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", "hun%2Fter")
    full = expanded("postgresql://app:${PW}@h/d?key=abc", "x")
    said = hide(
        f"cannot use {full}: password 'hun/ter', raw hun%2Fter, key=abc", "postgresql://app:${PW}@h/d?key=abc", full
    )
    assert not [s for s in ("hun", "ter'", "abc", "app:") if s in said]
