"""Settings: one order of precedence, every value with its origin, every error with file, line and mend."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.errors import BadConfig, UsersTurn
from holdfast.settings import KEYS, flat, load, shown, variable


@pytest.fixture
def project(tmp_path):
    def write(text: str):
        (tmp_path / "holdfast.toml").write_text(text)
        return tmp_path

    return write


def test_without_a_file_everything_is_a_default(tmp_path):
    loaded = load(tmp_path, variables={})
    assert set(loaded.origins.values()) == {"default"}
    assert flat(loaded.settings) == {key: default for key, (_, default) in KEYS.items()}
    assert loaded.settings.server.host == "127.0.0.1"
    assert loaded.settings.ledger.url.startswith("sqlite:///")


FILE = """\
# a comment
[serve]
port = 1001

[environments.prod.serve]
port = 1002
"""


@pytest.mark.parametrize(
    ("environment", "variables", "overrides", "port", "origin"),
    [
        (None, {}, {}, 1001, "holdfast.toml:3"),
        ("prod", {}, {}, 1002, "holdfast.toml:6 [environments.prod]"),
        (None, {"HOLDFAST_ENV": "prod"}, {}, 1002, "holdfast.toml:6 [environments.prod]"),
        ("prod", {"HOLDFAST_SERVE_PORT": "1003"}, {}, 1003, "environment variable HOLDFAST_SERVE_PORT"),
        ("prod", {"HOLDFAST_SERVE_PORT": "1003"}, {"serve.port": 1004}, 1004, "command line"),
    ],
)
def test_precedence(project, environment, variables, overrides, port, origin):
    loaded = load(project(FILE), environment=environment, variables=variables, overrides=overrides)
    assert loaded.settings.serve.port == port
    assert loaded.origins["serve.port"] == origin


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ("[serve\nport = 1", "holdfast.toml:1", "mend the line"),
        ("[serve]\nport = ", "holdfast.toml:2", "mend the line"),
        ("a = 1\na = 2", "holdfast.toml:2", ""),
        ("[serve]\nprot = 1", "holdfast.toml:2: unknown setting 'serve.prot'", "did you mean 'serve.port'?"),
        ("[sevre]\nport = 1", "holdfast.toml:1: unknown setting 'sevre'", "did you mean 'serve'?"),
        ("\n\n[serve]\nhost = 'x'\nport = 'many'", "holdfast.toml:5: serve.port = 'many'", "whole number"),
        ("[serve]\nport = 70000", "holdfast.toml:2: serve.port", "whole number"),
        ("[serve]\nport = true", "holdfast.toml:2: serve.port", "whole number"),
        ("serve = 1", "holdfast.toml:1: serve is a table", "[serve]"),
        ("serve.port = 'x'", "holdfast.toml:1: serve.port", ""),
        ("clock = 'sundial'", "holdfast.toml:1: clock", "one of: system, replay"),
        ("[gate]\npolicy = 'maybe'", "holdfast.toml:2: gate.policy", "one of: off, warn, enforce"),
        ("alerts = 'slack://secret'", "holdfast.toml:1: alerts", "a list of text"),
        ("[ledger]\nurl = 'mysql://x'", "holdfast.toml:2: ledger.url", "sqlite:///"),
        ("[objects]\nurl = 'ftp://x'", "holdfast.toml:2: objects.url", "s3://bucket"),
        ("[online]\nurl = 'memcached://x'", "holdfast.toml:2: online.url", "redis://"),
        ("definitions = '../../etc/passwd'", "holdfast.toml:1", "definitions"),
        ("[environments.prod.serve]\nprot = 1", "holdfast.toml:2: unknown setting", "did you mean"),
        ("environments = 3", "holdfast.toml:1", "[environments.prod]"),
        ("[environments]\nprod = 3", "holdfast.toml:1", "[environments.prod]"),
    ],
)
def test_errors_name_file_line_and_mend(project, text, where, hint):
    with pytest.raises(BadConfig) as caught:
        load(project(text), variables={})
    assert caught.value.message.startswith(where)
    assert hint in (caught.value.hint or "")
    assert "secret" not in str(caught.value)


def test_bytes_that_are_not_text(tmp_path):
    (tmp_path / "holdfast.toml").write_bytes(b"# ok\nclock = '\xff'")
    with pytest.raises(BadConfig, match=r"holdfast\.toml:2"):
        load(tmp_path, variables={})


def test_an_unknown_environment(project):
    with pytest.raises(BadConfig) as caught:
        load(project(FILE), environment="pord", variables={})
    assert "did you mean 'prod'?" in caught.value.hint


def test_variables_of_the_wrong_kind_and_unknown_ones(tmp_path):
    with pytest.raises(BadConfig, match="HOLDFAST_SERVE_PORT"):
        load(tmp_path, variables={"HOLDFAST_SERVE_PORT": "many"})
    loaded = load(tmp_path, variables={"HOLDFAST_SERVE_PROT": "1", "HOLDFAST_ENV": "", "PATH": "x"})
    assert len(loaded.notices) == 1 and "HOLDFAST_SERVE_PORT" in loaded.notices[0]


def test_every_setting_has_a_variable_of_its_own(tmp_path):
    samples = {
        "clock": "replay", "gate.policy": "warn", "runs.synchronous": "full", "serve.prediction_log": "buffered", "serve.environment": "auto",
        "ledger.url": "sqlite:///x.db", "runs.url": "sqlite:///x.db", "server.url": "http://x",
    }  # fmt: skip
    seen = set()
    for key, (_, default) in KEYS.items():
        name = variable(key)
        assert name not in seen
        seen.add(name)
        text = samples.get(key, "7" if isinstance(default, int) else "word")
        loaded = load(tmp_path, variables={name: text})
        assert loaded.origins[key] == f"environment variable {name}"
        assert str(flat(loaded.settings)[key]) in (text, f"['{text}']")


def test_overrides_are_checked_like_the_rest(tmp_path):
    with pytest.raises(BadConfig, match="unknown setting"):
        load(tmp_path, variables={}, overrides={"serve.prot": 1})
    with pytest.raises(BadConfig, match="command line"):
        load(tmp_path, variables={}, overrides={"serve.port": "many"})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ledger.url", "postgresql://ann:pa@ss@host/db", "postgresql://ann:***@host/db"),
        ("ledger.url", "postgresql://host/db?user=a&password=b&x=1", "postgresql://host/db?user=a&password=***&x=1"),
        ("online.url", "redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("server.token", "t", "***"),
        ("server.token", None, None),
        ("alerts", ["slack://a/b/c", "odd"], ["slack://***", "***"]),
        ("ledger.url", "sqlite:///a:b@c.db", "sqlite:///a:b@c.db"),
        ("serve.port", 1, 1),
    ],
)
def test_secrets_are_masked(key, value, expected):
    assert shown(key, value) == expected


PIECES = ["[", "]", "serve", "port", "=", ".", "\n", "1", "'", '"', " ", "environments", "#"]


@settings(derandomize=True, max_examples=300)
@given(st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_no_file_breaks_the_reader(tmp_path_factory, text):
    root = tmp_path_factory.mktemp("p")
    (root / "holdfast.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    refusal = None
    try:
        load(root, variables={})
    except UsersTurn as error:
        refusal = error
    assert refusal is None or (refusal.hint and refusal.message.startswith("holdfast.toml:"))


def test_settings_load_nothing_heavy():
    code = (
        "import sys, holdfast.settings, holdfast.workspace;"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'duckdb', 'sqlalchemy', 'alembic', 'obstore', 'lmdb'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
