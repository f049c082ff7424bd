"""One response over its legs: what counts, under which version, how old its cache is, and how it ends."""

from __future__ import annotations

import numpy as np
import pytest

from ring_async.engines.base import GenerationRequest
from ring_async.engines.sglang.response import BrokenServerError, Leg, Response, age, kv_age_of
from ring_async.engines.sglang.stream import Chunk, Finish, MetaInfo, StreamError
from ring_async.types import Generation, PolicyVersion, SamplingParams, Segment

V1, V2, V3 = (PolicyVersion(0, number) for number in (1, 2, 3))
VERSIONS = {1: V1, 2: V2, 3: V3}
EOS = 2


def make_response(max_tokens: int = 8, *, temperature: float = 1.0, prefix: Generation | None = None) -> Response:
    sampling = SamplingParams(temperature, max_tokens)
    request = GenerationRequest("r", np.array([7, 8], np.int32), sampling, seed=0, prefix=prefix)
    return Response(request, frozenset({EOS}))


def make_chunk(ids: list[int], total: int, *, tags: list[int] | None = None, finish: Finish | None = None) -> Chunk:
    logprobs: list[tuple[float | None, int, object]] = [(-token / 10, token, None) for token in ids]
    return Chunk(output_ids=ids, meta_info=MetaInfo(finish, total, logprobs, list(tags or [])))


def make_leg(ids: list[int], *, serial: int = 1, tags: list[int] | None = None, finish: Finish | None = None) -> Leg:
    leg = Leg("1.", salt=VERSIONS[serial], serial=serial)
    leg.take(make_chunk(ids, len(ids), tags=tags, finish=finish))
    return leg


def test_chunks_add_up_to_what_was_sampled() -> None:
    leg = Leg("1.", V1, 1)
    assert leg.take(make_chunk([11, 12], 2)) == 2
    assert leg.take(make_chunk([13], 3, finish=Finish("length"))) == 1
    assert (leg.ids, leg.logprobs, leg.serials) == ([11, 12, 13], [-1.1, -1.2, -1.3], [])


def test_an_abort_from_the_queue_repeats_the_last_token_and_it_is_not_counted_again() -> None:
    leg = Leg("1.", V1, 1)
    leg.take(make_chunk([11, 12], 2))
    again = Chunk(output_ids=[12], meta_info=MetaInfo(Finish("abort"), 2, [(-1.1, 11, None), (-1.2, 12, None)]))
    assert leg.take(again) == 0
    assert leg.ids == [11, 12]
    assert leg.finish == Finish("abort")


def test_an_abort_before_the_first_token_ends_the_leg_without_one() -> None:
    leg = Leg("1.", V1, 1)
    assert leg.take(Chunk(error=StreamError("Request 1. was aborted", 499))) == 0
    assert leg.finish is not None
    assert leg.finish.type == "abort"


def test_a_refusal_is_the_requests_own_error() -> None:
    with pytest.raises(ValueError, match="too long"):
        Leg("1.", V1, 1).take(Chunk(error=StreamError("the prompt is too long", 400)))


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (make_chunk([EOS], 1, finish=Finish("stop", matched="NaN happened")), "not numbers"),
        (Chunk(output_ids=[5], meta_info=MetaInfo(None, 1, [(None, 5, None)])), "not numbers"),
        (Chunk(output_ids=[5], meta_info=MetaInfo(None, 1, [])), "missing"),
        (make_chunk([5], 3), "incremental"),
        (make_chunk([5, 6], 2, tags=[1]), "step tags"),
    ],
)
def test_what_no_sound_server_says_is_a_broken_server(chunk: Chunk, words: str) -> None:
    with pytest.raises(BrokenServerError, match=words):
        Leg("1.", V1, 1).take(chunk)


def test_tags_cut_a_leg_into_segments_with_their_ages() -> None:
    response = make_response()
    leg = make_leg([11, 12, 13, 14, 15], tags=[1, 1, 2, 2, 3], finish=Finish("abort"))
    response.absorb(leg, VERSIONS)
    assert response.ended(leg) is None
    partial = response.partial
    assert partial is not None
    assert partial.segments == (Segment(0, 2, V1), Segment(2, 4, V2), Segment(4, 5, V3))
    assert kv_age_of(partial).tolist() == [0, 0, 1, 1, 2]
    assert response.input_ids == [7, 8, 11, 12, 13, 14, 15]
    assert response.num_left == 3


def test_tokens_of_weights_that_must_not_count_are_dropped_and_the_next_leg_samples_them_again() -> None:
    response = make_response()
    leg = make_leg([11, 12, 13], tags=[1, 1, 2], finish=Finish("stop", matched=13))
    leg.last_serial = 1
    response.absorb(leg, VERSIONS)
    assert response.ended(leg) is None
    assert response.ids == [11, 12]
    leg = make_leg([21, EOS], serial=2, tags=[2, 2], finish=Finish("stop", matched=EOS))
    response.absorb(leg, VERSIONS)
    assert response.ended(leg) == "stop"
    generation = response.generation("stop")
    assert generation.response_ids.tolist() == [11, 12, 21, EOS]
    assert generation.segments == (Segment(0, 2, V1), Segment(2, 4, V2))
    assert kv_age_of(generation).tolist() == [0, 0, 0, 0]


def test_legs_of_one_version_make_one_segment() -> None:
    response = make_response()
    for ids in ([11, 12], [13], []):
        response.absorb(make_leg(ids), VERSIONS)
    assert response.generation("length").segments == (Segment(0, 3, V1),)


@pytest.mark.parametrize(
    ("ids", "finish", "reason"),
    [
        ([11, EOS], Finish("stop", matched=EOS), "stop"),
        ([11, 12, 13, EOS], Finish("length"), "stop"),  # 0.5.17 tests the length before the stop token
        ([11, 12, 13, 14], Finish("length"), "length"),
        ([11, EOS], Finish("abort"), "stop"),
        ([11, 12, 13, 14], Finish("abort"), "length"),
        ([11, 12], Finish("abort"), None),
        ([11, 12], None, None),
        ([11, 12], Finish("stop", matched=99), "stop"),
    ],
)
def test_how_a_response_ends(ids: list[int], finish: Finish | None, reason: str | None) -> None:
    response = make_response(max_tokens=4)
    leg = make_leg(ids, finish=finish)
    response.absorb(leg, VERSIONS)
    assert response.ended(leg) == reason


def test_a_response_goes_on_from_a_prefix_with_its_ages() -> None:
    first = make_response()
    first.absorb(make_leg([11, 12], tags=[1, 2]), VERSIONS)
    response = make_response(prefix=first.partial)
    response.absorb(make_leg([13], serial=2), VERSIONS)
    generation = response.generation("length")
    assert generation.response_ids.tolist() == [11, 12, 13]
    np.testing.assert_allclose(generation.behavior_logprobs, [-1.1, -1.2, -1.3], rtol=1e-6)
    assert generation.segments == (Segment(0, 1, V1), Segment(1, 3, V2))
    assert kv_age_of(generation).tolist() == [0, 1, 0]


def test_what_is_certain_has_a_log_probability_of_nothing() -> None:
    response = make_response(temperature=0.0)
    response.absorb(make_leg([11, 12]), VERSIONS)
    assert response.generation("length").behavior_logprobs.tolist() == [0.0, 0.0]


def test_ages_saturate_and_a_lost_lineage_is_as_old_as_can_be() -> None:
    assert age(V3, V1) == 2
    assert age(V1, V3) == 0
    assert age(PolicyVersion(0, 1000), V1) == 255
    assert age(PolicyVersion(1, 2), V1) == 255
