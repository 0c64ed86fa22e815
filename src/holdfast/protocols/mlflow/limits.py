"""How long and of what characters MLflow's names and values may be."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any

from holdfast.core.errors import BadInput
from holdfast.protocols.mlflow.wire import invalid

KEY = 250
PARAM_VALUE = 100_000
TAG_VALUE = 100_000
EXPERIMENT_NAME = 500
DATASET_NAME, DATASET_DIGEST, DATASET_SOURCE = 500, 36, 65_535
DATASET_SCHEMA, DATASET_PROFILE = 1_048_575, 16_777_215
BATCH_METRICS, BATCH_PARAMS, BATCH_TAGS, BATCH_ALL = 1000, 100, 100, 1000

_KEY = re.compile(r"[/\w.\- :]*\Z")


def check_key(name: str, path: str) -> str:
    """The key of a metric, param or tag.

    Raises:
        BadInput: empty, too long, with odd characters, or one that would walk out of a folder as a file name.
    """
    if not name:
        raise invalid(path, name, "A key name must be provided.")
    if not _KEY.match(name):
        raise invalid(
            path,
            name,
            "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and "
            "slashes (/).",
        )
    plain = posixpath.normpath(name)
    if plain != name or plain == "." or plain.startswith(("..", "/")):
        raise invalid(
            path,
            name,
            "Names may be treated as files in certain cases, and must not resolve to other names when treated as such. "
            f"This name would resolve to {plain!r}",
        )
    return check_length(name, path, KEY)


def check_length(value: str, path: str, limit: int) -> str:
    """A text of at most ``limit`` characters.

    Raises:
        BadInput: it is longer.
    """
    if len(value) > limit:
        raise BadInput(f"'{path}' exceeds the maximum length of {limit} characters")
    return value


def check_tags(tags: Mapping[str, str], path: str = "tags") -> dict[str, str]:
    """Keys and values of tags."""
    for place, (key, value) in enumerate(tags.items()):
        check_key(key, f"{path}[{place}].key")
        check_length(value, f"{path}[{place}].value", TAG_VALUE)
    return dict(tags)


def check_batch(counts: Mapping[str, int]) -> None:
    """The sizes of one batch.

    Raises:
        BadInput: more than one request may carry.
    """
    most = {"metrics": BATCH_METRICS, "params": BATCH_PARAMS, "tags": BATCH_TAGS}
    for name, count in counts.items():
        if count > most[name]:
            raise _batch(name, most[name], count)
    if sum(counts.values()) > BATCH_ALL:
        raise _batch("metrics, params, and tags", BATCH_ALL, sum(counts.values()))


def _batch(name: str, limit: int, count: int) -> BadInput:
    return BadInput(
        f"A batch logging request can contain at most {limit} {name}. Got {count} {name}. Please split up {name} "
        f"across "
        "multiple requests and try again."
    )


def page_size(value: Any, default: int, most: int, *, least: int = 1) -> int:
    """``max_results`` of a search.

    Raises:
        BadInput: below one or above the search's limit.
    """
    if value is None:
        return default
    if not least <= value <= most:
        raise BadInput(
            f"Invalid value {value} for parameter 'max_results' supplied. It must be a positive integer and at most "
            f"{most}"
        )
    return int(value)
