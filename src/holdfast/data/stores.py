"""A remote's URL and its options in ``.dvc/config`` → an ``obstore`` store. Option names are DVC's.

An option that changes what is stored or who may read it, and that is not known here, is refused rather than passed over.
"""

from __future__ import annotations

import base64
import configparser
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from holdfast.core.errors import BadConfig, NotFound

COMMON = frozenset({"url", "jobs", "verify", "checksum_jobs", "no_traverse", "version_aware", "worktree"})
_PASSED_OVER = frozenset({"listobjects", "cache_regions", "projectname", "timeout", "connection_timeout"})
Store = tuple[Any, str]


def open_store(label: str, url: str, options: Mapping[str, str]) -> Store:
    """(store, prefix) of a remote.

    Raises:
        BadConfig: its kind, or one of its options, is not supported here.
    """
    scheme = urlsplit(url).scheme
    made = KINDS.get(scheme)
    if made is None:
        raise BadConfig(
            f"{label}: {scheme}:// is not supported here",
            hint="use a folder, s3, gs, azure, ssh, http or https; or dvc for this remote",
        )
    build, known = made
    for key in options:
        if key not in COMMON and key not in known and key not in _PASSED_OVER:
            raise BadConfig(
                f"{label}: option {key!r} is not supported here", hint="remove it, or use dvc for this remote"
            )
    if scheme not in ("http", "https") and (not urlsplit(url).netloc or "@" in urlsplit(url).netloc):
        raise BadConfig(f"{label}: its url names no bucket or container", hint=f"write {scheme}://NAME/path")
    from obstore import exceptions

    try:
        return build(label, url, options)
    except exceptions.BaseError as error:
        # What follows the first line is the library's view of itself.
        raise BadConfig(
            f"{label}: {str(error).splitlines()[0]}",
            hint="mend the remote in .dvc/config, or its secrets in .dvc/config.local",
        ) from None


def flag(options: Mapping[str, str], key: str, default: bool = False) -> bool:
    """A boolean option, written as DVC writes them."""
    return options.get(key, str(default)).strip().lower() in ("true", "yes", "on", "1")


def _client(label: str, options: Mapping[str, str], *, plain: bool) -> Any:
    connect, read = timeouts(label, options)
    made: dict[str, Any] = {"timeout": f"{read}s", "connect_timeout": f"{connect}s"}
    if plain:
        made["allow_http"] = True
    verify = options.get("ssl_verify", "true")
    if verify.lower() == "false":
        made["allow_invalid_certificates"] = True
    elif verify.lower() != "true":
        try:
            made["root_certificate"] = Path(os.path.expanduser(verify)).read_bytes()
        except OSError as error:
            raise BadConfig(f"{label}: ssl_verify names {verify}: {error.strerror}", hint="name a PEM file") from None
    return made


def timeouts(label: str, options: Mapping[str, str]) -> tuple[float, float]:
    """(to connect, to read), in seconds."""
    return _seconds(label, options, "connect_timeout", 10), _seconds(label, options, "read_timeout", 120)


def _seconds(label: str, options: Mapping[str, str], key: str, default: float) -> float:
    try:
        value = float(options.get(key, default))
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise BadConfig(f"{label}: {key} is not a number of seconds", hint=f"for example {default:g}")
    return value


def _named(options: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: options[theirs] for theirs, ours in names.items() if options.get(theirs)}


# --- S3 ---------------------------------------------------------------------------------------------------------------

_S3 = frozenset(
    {
        "region", "profile", "credentialpath", "configpath", "endpointurl", "access_key_id", "secret_access_key",
        "session_token", "use_ssl", "allow_anonymous_login", "ssl_verify", "sse", "sse_kms_key_id", "read_timeout",
        "connect_timeout",
    }
)  # fmt: skip


def _s3(label: str, url: str, options: Mapping[str, str]) -> Store:
    from obstore.store import S3Store

    parts = urlsplit(url)
    endpoint = (
        options.get("endpointurl") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    )
    if endpoint and "://" not in endpoint:
        endpoint = ("https://" if flag(options, "use_ssl", True) else "http://") + endpoint
    config: dict[str, Any] = {
        key: options[key]
        for key in ("access_key_id", "secret_access_key", "session_token", "region")
        if options.get(key)
    }
    if flag(options, "allow_anonymous_login"):
        config["skip_signature"] = True
    elif "access_key_id" not in config:
        config = {**_aws_files(label, options), **config}
    if endpoint:
        config["endpoint"] = endpoint
    config |= _named(options, {"sse": "server_side_encryption", "sse_kms_key_id": "sse_kms_key_id"})
    client = _client(label, options, plain=endpoint.startswith("http://"))
    return S3Store(parts.netloc, client_options=client, **config), parts.path.strip("/")


def _aws_files(label: str, options: Mapping[str, str]) -> dict[str, str]:
    """Keys and region of AWS's own files; nothing where the environment has the keys (obstore reads it itself)."""
    explicit = options.get("profile") or os.environ.get("AWS_PROFILE")
    keys_path = options.get("credentialpath") or os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    config_path = options.get("configpath") or os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    if "AWS_ACCESS_KEY_ID" in os.environ and not options.get("profile") and not options.get("credentialpath"):
        return {}
    keys, settings = _ini(label, keys_path), _ini(label, config_path)
    profile = explicit or "default"
    mine = dict(keys[profile]) if keys.has_section(profile) else {}
    section = "default" if profile == "default" else f"profile {profile}"
    theirs = dict(settings[section]) if settings.has_section(section) else {}
    merged = {**theirs, **mine}
    found = _named(
        merged,
        {
            "aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key",
            "aws_session_token": "session_token", "region": "region",
        },
    )  # fmt: skip
    if explicit and not merged:
        raise NotFound(f"{label}: no AWS profile {profile!r}", hint=f"add it to {keys_path} or {config_path}")
    if explicit and "access_key_id" not in found:
        raise BadConfig(
            f"{label}: AWS profile {profile!r} holds no keys (single sign-on and roles are not followed here)",
            hint='run `eval "$(aws configure export-credentials --format env)"` first',
        )
    return found


def _ini(label: str, path: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False, default_section="\0")
    try:
        parser.read_string(Path(os.path.expanduser(path)).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (configparser.Error, UnicodeDecodeError):
        # The parser's message would show the line, and the line may be a secret.
        raise BadConfig(f"{label}: {path} cannot be read as INI", hint="mend the file") from None
    return parser


# --- Google Cloud Storage, Azure ----------------------------------------------------------------------------------------

_GCS = frozenset({"credentialpath", "endpointurl", "allow_anonymous_login"})


def _gcs(label: str, url: str, options: Mapping[str, str]) -> Store:
    from obstore.store import GCSStore

    parts = urlsplit(url)
    config: dict[str, Any] = _named(options, {"credentialpath": "application_credentials", "endpointurl": "base_url"})
    if "application_credentials" in config:
        config["application_credentials"] = os.path.expanduser(config["application_credentials"])
    if flag(options, "allow_anonymous_login"):
        config["skip_signature"] = True
    client = _client(label, options, plain=str(config.get("base_url", "")).startswith("http://"))
    return GCSStore(parts.netloc, client_options=client, **config), parts.path.strip("/")


_AZURE_SAME = ("account_name", "account_key", "tenant_id", "client_id", "client_secret")
_AZURE_ENVIRONMENT = {
    "AZURE_STORAGE_ACCOUNT": "account_name", "AZURE_STORAGE_KEY": "account_key", "AZURE_STORAGE_SAS_TOKEN": "sas_key",
}  # fmt: skip
_AZURE = frozenset(
    {
        *_AZURE_SAME, "connection_string", "sas_token", "allow_anonymous_login", "read_timeout",
        "exclude_environment_credential", "exclude_visual_studio_code_credential",
        "exclude_shared_token_cache_credential", "exclude_managed_identity_credential",
    }
)  # fmt: skip


def _azure(label: str, url: str, options: Mapping[str, str]) -> Store:
    from obstore.store import AzureStore

    parts = urlsplit(url)
    text = options.get("connection_string")
    if not text and not options.get("account_name"):
        text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
    config: dict[str, Any] = _connection(label, text or "")
    config |= _named(options, {"sas_token": "sas_key", **{key: key for key in _AZURE_SAME}})
    if not config.get("account_name"):
        # The library reads AZURE_STORAGE_ACCOUNT_NAME and its like by itself; these are the names dvc documents.
        config |= _named(os.environ, _AZURE_ENVIRONMENT)
    if flag(options, "allow_anonymous_login"):
        config["skip_signature"] = True
    client = _client(label, options, plain=str(config.get("endpoint", "")).startswith("http://"))
    return AzureStore(parts.netloc, client_options=client, **config), parts.path.strip("/")


def _connection(label: str, text: str) -> dict[str, Any]:
    """Azure's connection string: ``Key=value`` joined by ``;``."""
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        key, equals, value = part.partition("=")
        if not equals:
            raise BadConfig(
                f"{label}: connection_string is not a list of Key=value", hint="copy it anew from the portal"
            )
        found[key.lower()] = value
    suffix = found.get("endpointsuffix", "")
    if suffix and "blobendpoint" not in found and found.get("accountname"):
        # The national clouds differ in this alone.
        protocol = found.get("defaultendpointsprotocol", "https")
        found["blobendpoint"] = f"{protocol}://{found['accountname']}.blob.{suffix}"
    names = {
        "accountname": "account_name",
        "accountkey": "account_key",
        "sharedaccesssignature": "sas_key",
        "blobendpoint": "endpoint",
    }
    return _named(found, names)


# --- the web ------------------------------------------------------------------------------------------------------------

_HTTP = frozenset(
    [
        "auth",
        "custom_auth_header",
        "user",
        "password",
        "ask_password",
        "ssl_verify",
        "method",
        "connect_timeout",
        "read_timeout",
    ]
)


def _http(label: str, url: str, options: Mapping[str, str]) -> Store:
    from obstore.store import HTTPStore

    client = _client(label, options, plain=url.startswith("http://"))
    headers = web_headers(label, options)
    if headers:
        client["default_headers"] = headers
    return HTTPStore.from_url(url, client_options=client), ""


def web_headers(label: str, options: Mapping[str, str]) -> dict[str, str]:
    """What a web server is told to let somebody in."""
    auth, password = options.get("auth", "").lower(), options.get("password") or ""
    if auth in ("basic", "custom") and flag(options, "ask_password") and not password:
        password = ask(label, "password")
    if auth == "basic":
        token = base64.b64encode(f"{options.get('user', '')}:{password}".encode()).decode()
        return {"Authorization": f"Basic {token}"}
    if auth == "custom":
        return {options.get("custom_auth_header") or "Authorization": password}
    if auth:
        raise BadConfig(
            f"{label}: auth {auth!r} is not supported here", hint="use basic or custom, or dvc for this remote"
        )
    return {}


@functools.cache
def ask(label: str, what: str) -> str:
    """A secret from the terminal, asked for once.

    Raises:
        BadConfig: there is no terminal.
    """
    import getpass
    import sys

    if not sys.stdin.isatty():
        raise BadConfig(
            f"{label} wants to ask for a {what}, and there is no terminal", hint="put it into .dvc/config.local"
        )
    return getpass.getpass(f"{label}: {what}: ")


KINDS: dict[str, tuple[Callable[[str, str, Mapping[str, str]], Store], frozenset[str]]] = {
    "s3": (_s3, _S3), "gs": (_gcs, _GCS), "gcs": (_gcs, _GCS), "azure": (_azure, _AZURE), "http": (_http, _HTTP), "https": (_http, _HTTP),
}  # fmt: skip
