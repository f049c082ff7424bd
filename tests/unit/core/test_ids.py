from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_async.core.ids import IdError, group_id_for, index_of, split_id, trajectory_id_for

SOURCES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@given(SOURCES, st.integers(0, 10**12), st.integers(0, 10**4))
def test_what_a_name_was_made_of_can_be_read_back(source: str, cursor: int, index: int):
    group_id = group_id_for(source, cursor)
    assert index_of(group_id) == cursor
    assert split_id(trajectory_id_for(group_id, index)) == (group_id, index)


def test_names_look_as_they_always_have():
    assert group_id_for("math", 17) == "math-00000017"
    assert trajectory_id_for("math-00000017", 3) == "math-00000017/3"


@pytest.mark.parametrize("bad", ["g0", "g0/", "g0/x", "/1x"])
def test_a_malformed_id_is_refused(bad: str):
    with pytest.raises(IdError, match="not of the form group/index"):
        split_id(bad)
