"""The step tags: read at the launch, noted when the result is processed, sliced when a chunk is streamed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ring_async.engines.sglang import plugin
from ring_async.engines.sglang.plugin import TAG, StepTags, count_update, mark_result, tag_tokens


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin._InForce, "serial", 0)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)


def make_request() -> SimpleNamespace:
    return SimpleNamespace(output_ids=[], customized_info=None)


def launch(*requests: SimpleNamespace) -> tuple[SimpleNamespace, SimpleNamespace]:
    result = SimpleNamespace()
    mark_result(result, None, None)
    return SimpleNamespace(reqs=list(requests)), result


def process(step: tuple[SimpleNamespace, SimpleNamespace]) -> None:
    batch, result = step
    tag_tokens(None, batch, result)
    for request in batch.reqs:
        request.output_ids.append(0)


def update(serial: str | None, *, success: bool = True) -> None:
    count_update(lambda *_: SimpleNamespace(success=success), None, SimpleNamespace(weight_version=serial))


def tags_of(request: SimpleNamespace, start: int = 0) -> list[int]:
    return request.customized_info[TAG][start : len(request.output_ids)]


def test_a_step_launched_before_an_update_and_processed_after_it_belongs_to_the_old_weights() -> None:
    request = make_request()
    process(launch(request))
    pending = launch(request)
    update("1")
    process(pending)
    process(launch(request))
    assert tags_of(request) == [0, 0, 1]
    assert tags_of(request, 1) == [0, 1]
    assert tags_of(request, 2) == [1]


def test_requests_outside_the_last_batch_and_new_ones_are_told_apart() -> None:
    first, second, late = make_request(), make_request(), make_request()
    process(launch(first, second))
    pending = launch(first)
    update("4")
    process(pending)
    process(launch(first, second, late))
    assert [tags_of(one) for one in (first, second, late)] == [[0, 0, 4], [0, 4], [4]]


def test_an_update_that_failed_or_has_no_number_changes_nothing() -> None:
    request = make_request()
    update("7", success=False)
    update(None)
    update("default")
    process(launch(request))
    assert tags_of(request) == [0]


def test_what_others_stream_besides_stays() -> None:
    request = make_request()
    request.customized_info = {"other": [1]}
    process(launch(request))
    assert request.customized_info["other"] == [1]


def test_slices_over_many_runs() -> None:
    tags = StepTags(1)
    tags.begin(2, 2)
    tags.begin(2, 3)
    tags.begin(5, 4)
    assert tags[0:7] == [1, 1, 3, 3, 3, 4, 4]
    assert tags[1:3] == [1, 3]
    assert tags[5:5] == []
    assert tags[6:9] == [4, 4, 4]
    assert StepTags(5)[0:2] == [5, 5]
    replaced = StepTags(1)
    replaced.begin(0, 2)
    assert replaced[0:2] == [2, 2]
