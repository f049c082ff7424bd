"""Pieces of a response: cut, shortened and joined, the tokens and their versions stay what they were."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ring_async.core.replay.partials import join_pieces, piece_of
from ring_async.testing.builders import make_segments, version
from ring_async.types import Generation


def make_generation(runs: list[int]) -> Generation:
    """Run n of these tokens was sampled by version n; the column holds positions modulo 256."""
    size = sum(runs)
    return Generation(
        np.arange(size, dtype=np.int32),
        -np.arange(size, dtype=np.float32),
        make_segments(size, [(tokens, number) for number, tokens in enumerate(runs)]),
        "stop",
        {"kv_age": np.arange(size, dtype=np.uint32).astype(np.uint8)},
    )


@given(runs=st.lists(st.integers(1, 9), min_size=1, max_size=5), data=st.data())
def test_pieces_cut_anywhere_join_to_the_whole(runs: list[int], data: st.DataObject) -> None:
    generation = make_generation(runs)
    size = sum(runs)
    cuts = sorted(data.draw(st.sets(st.integers(1, size - 1)))) if size > 1 else []
    pieces = []
    for start, end in zip([0, *cuts], [*cuts, size], strict=True):
        piece = piece_of("g0/0", generation, start, end, "stop" if end == size else None)
        piece.check()
        pieces.append(piece)
    joined = join_pieces(pieces)
    assert joined.header.finish_reason == "stop"
    assert joined.generation.segments == generation.segments
    assert joined.response_ids.tolist() == list(range(size))
    assert joined.columns["kv_age"].tolist() == [position % 256 for position in range(size)]


def test_the_first_tokens_of_a_piece() -> None:
    piece = piece_of("g0/0", make_generation([4, 4]), 2, 8)
    first = piece.first(3)
    first.check()
    assert (first.header.start, first.header.end, first.header.finish_reason) == (2, 5, None)
    assert first.response_ids.tolist() == [2, 3, 4]
    assert [(one.start, one.end, one.policy_version) for one in first.header.segments] == [
        (2, 4, version(0)),
        (4, 5, version(1)),
    ]
    assert first.generation.finish_reason == "length", "it has not ended"
