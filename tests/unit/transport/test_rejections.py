"""Bad messages: all counted, few logged."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from ring_async.errors import CodecError
from ring_async.testing.virtual_clock import run_virtual
from ring_async.transport.rejections import LOG_EVERY_S, MAX_SENDERS_LOGGED, Rejections


def test_all_are_counted_and_one_line_a_while_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    counter: Counter[str] = Counter()
    rejections = Rejections(counter, "replay-0/data")

    async def body() -> None:
        for _ in range(100):
            rejections.count("rollout-0", CodecError("truncated", "short"))
        rejections.count("rollout-0", CodecError("nesting"))
        await asyncio.sleep(LOG_EVERY_S)
        rejections.count("rollout-0", CodecError("truncated", "short"))

    run_virtual(body())
    assert counter == {"truncated": 101, "nesting": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "replay-0/data: dropped a message from rollout-0: truncated: short",
        "replay-0/data: dropped a message from rollout-0: nesting",
        "replay-0/data: dropped a message from rollout-0: truncated: short (99 more since the last such line)",
    ]


def test_strangers_with_many_names_fill_no_memory() -> None:
    rejections = Rejections(Counter(), "replay-0/data")

    async def body() -> None:
        for n in range(3 * MAX_SENDERS_LOGGED):
            rejections.count(f"stranger-{n}", CodecError("malformed"))

    run_virtual(body())
    assert len(rejections._logged) == MAX_SENDERS_LOGGED
