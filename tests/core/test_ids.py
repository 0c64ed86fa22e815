"""Ids: 26 characters, unlike each other, in the order of their making."""

from __future__ import annotations

import re
import time

import pytest

from holdfast.core.identity import Ids, new_id

FORM = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}")


@pytest.mark.parametrize("make", [new_id, Ids()])
def test_ids_have_one_form_are_unlike_and_sort_by_time(make: type[str]) -> None:
    made = [make() for _ in range(3000)]
    assert all(FORM.fullmatch(i) for i in made) and len(set(made)) == 3000
    assert [i[:10] for i in made] == sorted(i[:10] for i in made)
    time.sleep(0.005)
    assert max(made) < make()


def test_both_write_the_same_time_and_chance_uses_every_letter() -> None:
    ids = Ids()
    while True:
        before, one, after = new_id(), ids(), new_id()
        if before[:10] == after[:10]:
            assert one[:10] == before[:10]
            break
    # The time stands in the first ten characters, five bits each.
    assert (
        new_id(at=1_700_000_000_123_000)[:10]
        == new_id(at=1_700_000_000_123_999)[:10]
        < new_id(at=1_700_000_000_124_000)
    )
    for make in (new_id, ids):
        assert len(set("".join(make()[10:] for _ in range(300)))) == 32
