from __future__ import annotations

from typing import Any

import pytest

from holdfast.cli.trace import shown


@pytest.mark.parametrize(
    ("score", "text"), [(0.25, "0.2500"), (3, "3.0000"), ([0.5, 0.25, 0.25], "0.5000 0.2500 0.2500"), (None, "none")]
)
def test_every_kind_of_score_is_shown(score: Any, text: str) -> None:
    assert shown(score) == text
