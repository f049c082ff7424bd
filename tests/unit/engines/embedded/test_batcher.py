"""Continuous batching: exact log-probabilities and versions, whatever joins, leaves or changes meanwhile."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from ring_async.engines.base import GenerationRequest
from ring_async.engines.embedded.batcher import Batcher
from ring_async.errors import WeightsError
from ring_async.types import Generation, PolicyVersion, SamplingParams, Segment

V0, V1, V2 = PolicyVersion(0, 0), PolicyVersion(0, 1), PolicyVersion(0, 2)
STOP = 2
EXACT = 1e-4


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def make_request(number: int = 0, *, num_prompt: int = 5, max_tokens: int = 12, **sampling) -> GenerationRequest:
    prompt_ids = np.random.default_rng(number).integers(3, 23, num_prompt).astype(np.int32)
    return GenerationRequest(
        f"r{number}", prompt_ids, SamplingParams(max_tokens=max_tokens, **sampling), seed=100 + number
    )


def make_batcher(model, *, rows: int = 4, stops=(STOP,)) -> Batcher:
    return Batcher(model, stops, rows, V0)


def drain(batcher: Batcher) -> dict[str, Generation]:
    ended = {}
    while batcher.has_work:
        ended.update(batcher.step())
    return ended


def steps(batcher: Batcher, number: int) -> None:
    for _ in range(number):
        assert batcher.step() == []


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: parameter.clone() for name, parameter in model.named_parameters()}


def test_logprobs_are_those_of_a_fresh_forward_at_each_temperature(make_model, fresh_logprobs) -> None:
    model = make_model(0)
    requests = [make_request(n, num_prompt=2 + 3 * n, temperature=0.5 + 0.4 * n) for n in range(4)]
    batcher = make_batcher(model, rows=3)
    for request in requests:
        batcher.submit(request)
    ended = drain(batcher)
    for request in requests:
        generation = ended[request.request_id]
        wanted = fresh_logprobs(model, request.prompt_ids, generation.response_ids, request.sampling.temperature)
        np.testing.assert_allclose(generation.behavior_logprobs, wanted, atol=EXACT)
        assert generation.segments == (Segment(0, generation.response_ids.size, V0),)


def test_a_response_does_not_depend_on_its_company(make_model) -> None:
    model = make_model(1)
    requests = [make_request(n, num_prompt=1 + n, max_tokens=4 + 2 * n) for n in range(5)]
    crowd = make_batcher(model, rows=3)
    for request in requests:
        crowd.submit(request)
    together = drain(crowd)
    for request in requests:
        alone = make_batcher(model, rows=1)
        alone.submit(request)
        assert drain(alone)[request.request_id].response_ids.tolist() == (
            together[request.request_id].response_ids.tolist()
        )


def test_responses_end_at_a_stop_token_or_at_their_length(make_model) -> None:
    batcher = make_batcher(make_model(2), rows=8)
    for number in range(16):
        batcher.submit(make_request(number, max_tokens=10))
    ended = drain(batcher)
    reasons = {generation.finish_reason for generation in ended.values()}
    assert reasons == {"stop", "length"}
    for generation in ended.values():
        ids = generation.response_ids.tolist()
        assert STOP not in ids[:-1]
        assert (ids[-1] == STOP) == (generation.finish_reason == "stop")
        assert len(ids) == 10 or generation.finish_reason == "stop"
    assert batcher.generated_tokens == sum(generation.response_ids.size for generation in ended.values())


def test_requests_join_as_rows_fall_free(make_model) -> None:
    batcher = make_batcher(make_model(0), rows=2, stops=())
    for number, max_tokens in enumerate((3, 6, 4)):
        batcher.submit(make_request(number, max_tokens=max_tokens))
    order = []
    while batcher.has_work:
        ended = batcher.step()
        assert batcher.num_running <= 2
        order += [request_id for request_id, _ in ended]
    assert order == ["r0", "r1", "r2"]


def test_reprefill_is_exact_on_both_sides_of_a_swap(make_model, fresh_logprobs) -> None:
    served, before, after = make_model(0), make_model(0), make_model(9)
    batcher = make_batcher(served, stops=())
    requests = [make_request(n, num_prompt=3 + 4 * n, max_tokens=14) for n in range(3)]
    for request in requests:
        batcher.submit(request)
    steps(batcher, 5)
    report, aborted = batcher.swap(V1, weights_of(after), "reprefill")
    assert (report.policy_version, report.num_in_flight, aborted) == (V1, 3, [])
    ended = drain(batcher)
    for request in requests:
        generation = ended[request.request_id]
        assert generation.segments == (Segment(0, 5, V0), Segment(5, 14, V1))
        old = fresh_logprobs(before, request.prompt_ids, generation.response_ids)
        new = fresh_logprobs(after, request.prompt_ids, generation.response_ids)
        np.testing.assert_allclose(generation.behavior_logprobs[:5], old[:5], atol=EXACT)
        np.testing.assert_allclose(generation.behavior_logprobs[5:], new[5:], atol=EXACT)
        assert np.abs(old - new).max() > 0.1


def test_keep_agrees_with_a_replay_of_the_same_mixed_cache(make_model, fresh_logprobs) -> None:
    served, before, after = make_model(0), make_model(0), make_model(9)
    batcher = make_batcher(served, stops=())
    request = make_request(0, num_prompt=6, max_tokens=14)
    batcher.submit(request)
    steps(batcher, 5)
    batcher.swap(V1, weights_of(after), "keep")
    generation = drain(batcher)["r0"]
    assert generation.segments == (Segment(0, 5, V0), Segment(5, 14, V1))

    ids = torch.tensor([[*request.prompt_ids, *generation.response_ids]]).long()
    num_cached = 6 + 5 - 1
    mixed = DynamicCache(config=before.config)
    before(input_ids=ids[:, :num_cached], past_key_values=mixed, use_cache=True)
    logits = after(input_ids=ids[:, num_cached:-1], past_key_values=mixed, use_cache=True).logits[0]
    replayed = torch.log_softmax(logits, dim=-1).gather(1, ids[0, num_cached + 1 :, None])[:, 0].numpy()
    np.testing.assert_allclose(generation.behavior_logprobs[5:], replayed, atol=EXACT)
    fresh = fresh_logprobs(after, request.prompt_ids, generation.response_ids)
    assert np.abs(generation.behavior_logprobs[5:] - fresh[5:]).max() > 10 * EXACT


def test_swap_with_abort_hands_back_what_was_sampled_and_keeps_the_queue(make_model) -> None:
    batcher = make_batcher(make_model(0), rows=1, stops=())
    batcher.submit(make_request(0))
    batcher.submit(make_request(1))
    steps(batcher, 4)
    _, aborted = batcher.swap(V1, weights_of(make_model(9)), "abort")
    ((request_id, partial),) = aborted
    assert (request_id, partial.response_ids.size, partial.segments) == ("r0", 4, (Segment(0, 4, V0),))
    assert drain(batcher)["r1"].segments == (Segment(0, 12, V1),)


def test_an_aborted_response_resumed_goes_on_as_if_nothing_had_been(make_model) -> None:
    whole = make_batcher(make_model(3), stops=())
    whole.submit(make_request(0))
    wanted = drain(whole)["r0"]

    batcher = make_batcher(make_model(3), stops=())
    batcher.submit(make_request(0))
    steps(batcher, 5)
    ((_, partial),) = batcher.abort(["r0"])
    assert not batcher.has_work
    request = make_request(0)
    batcher.submit(GenerationRequest("again", request.prompt_ids, request.sampling, request.seed, prefix=partial))
    resumed = drain(batcher)["again"]
    assert resumed.response_ids.tolist() == wanted.response_ids.tolist()
    np.testing.assert_allclose(resumed.behavior_logprobs, wanted.behavior_logprobs, atol=EXACT)
    assert resumed.segments == (Segment(0, 12, V0),)


def test_a_prefix_keeps_its_versions_when_resumed_under_new_weights(make_model, fresh_logprobs) -> None:
    batcher = make_batcher(make_model(0), stops=())
    batcher.submit(make_request(0))
    steps(batcher, 3)
    batcher.swap(V1, weights_of(make_model(4)), "reprefill")
    steps(batcher, 2)
    ((_, partial),) = batcher.abort()
    after = make_model(9)
    batcher.swap(V2, weights_of(after), "keep")
    request = make_request(0)
    batcher.submit(GenerationRequest("again", request.prompt_ids, request.sampling, request.seed, prefix=partial))
    resumed = drain(batcher)["again"]
    assert resumed.segments == (Segment(0, 3, V0), Segment(3, 5, V1), Segment(5, 12, V2))
    assert resumed.behavior_logprobs[:5].tolist() == partial.behavior_logprobs.tolist()
    new = fresh_logprobs(after, request.prompt_ids, resumed.response_ids)
    np.testing.assert_allclose(resumed.behavior_logprobs[5:], new[5:], atol=EXACT)


def test_two_swaps_without_a_token_between_leave_no_empty_segment(make_model) -> None:
    batcher = make_batcher(make_model(0), stops=())
    batcher.submit(make_request(0))
    steps(batcher, 2)
    batcher.swap(V1, weights_of(make_model(4)), "keep")
    batcher.swap(V2, weights_of(make_model(5)), "keep")
    assert drain(batcher)["r0"].segments == (Segment(0, 2, V0), Segment(2, 12, V2))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "missing"),
        (lambda tensors: tensors.update(stray=torch.zeros(1)), "unknown to the model, e.g. stray"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.zeros(3)}), r"shape \(3,\)"),
    ],
)
def test_a_version_that_does_not_fit_changes_nothing(make_model, spoil, words: str) -> None:
    model = make_model(0)
    batcher = make_batcher(model)
    before = weights_of(model)
    tensors = weights_of(make_model(9))
    spoil(tensors)
    with pytest.raises(WeightsError, match=words):
        batcher.swap(V1, tensors, "keep")
    assert batcher.policy_version == V0
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_sequences_longer_than_the_first_cache_grow_it_exactly(make_model, fresh_logprobs) -> None:
    model = make_model(0)
    batcher = make_batcher(model, stops=())
    short, long = make_request(0, max_tokens=20), make_request(1, num_prompt=60, max_tokens=20)
    batcher.submit(short)
    steps(batcher, 6)
    batcher.submit(long)
    ended = drain(batcher)
    for request in (short, long):
        generation = ended[request.request_id]
        wanted = fresh_logprobs(model, request.prompt_ids, generation.response_ids)
        np.testing.assert_allclose(generation.behavior_logprobs, wanted, atol=EXACT)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (make_request(0, num_prompt=0), "no tokens"),
        (make_request(0, num_prompt=150, max_tokens=11), "160 positions"),
    ],
)
def test_a_request_that_can_never_run_is_refused(make_model, request_: GenerationRequest, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_batcher(make_model(0)).submit(request_)
