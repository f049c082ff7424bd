"""Server-sent events, however the network cuts them."""

from __future__ import annotations

import msgspec
import pytest

from ring_async.engines.sglang.stream import EventCutter, Finish

EVENTS = (
    b'data: {"output_ids":[5,6],"meta_info":{"id":"1.","finish_reason":null,"completion_tokens":2,'
    b'"output_token_logprobs":[[-0.5,5,null],[-1.5,6,null]],"ring_weights":[3,3],"e2e_latency":0.1}}\n\n'
    b'data: {"output_ids":[7],"meta_info":{"finish_reason":{"type":"stop","matched":7},"completion_tokens":3,'
    b'"output_token_logprobs":[[null,7,null]]}}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize("step", [1, 7, 64, len(EVENTS)])
def test_events_are_whole_however_they_arrive(step: int) -> None:
    cutter = EventCutter()
    chunks = [chunk for at in range(0, len(EVENTS), step) for chunk in cutter.feed(EVENTS[at : at + step])]
    assert [chunk.output_ids for chunk in chunks] == [[5, 6], [7]]
    assert chunks[0].meta_info.output_token_logprobs == [(-0.5, 5, None), (-1.5, 6, None)]
    assert chunks[0].meta_info.step_tags == [3, 3]
    assert chunks[0].meta_info.finish_reason is None
    assert chunks[1].meta_info.finish_reason == Finish("stop", 7)
    assert chunks[1].meta_info.output_token_logprobs == [(None, 7, None)]


def test_an_error_is_an_event_too() -> None:
    (chunk,) = EventCutter().feed(b'data: {"error":{"message":"no","type":"x","code":400,"retryable":false}}\n\n')
    assert chunk.error is not None
    assert (chunk.error.message, chunk.error.code) == ("no", 400)


def test_what_is_no_event_is_said() -> None:
    with pytest.raises(msgspec.DecodeError):
        list(EventCutter().feed(b"<html>\n\n"))
