"""The codec: round trips, limits, and the cause named for every kind of bad bytes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_async.columns import DTYPES, Column
from ring_async.config.schema import TransportSection
from ring_async.errors import CodecError
from ring_async.testing.builders import make_group
from ring_async.transport.codec import MAX_NESTING, Carry, Codec, Envelope, Heard, Hello, Settled, Welcome
from ring_async.transport.memory import MemoryFrame
from ring_async.transport.messages.base import SCHEMA_VERSION, Done, Message
from ring_async.transport.messages.batches import StepCompleted
from ring_async.transport.messages.changes import TuneKnobs
from ring_async.transport.messages.versions import UseWeights, WeightsAnnouncement
from ring_async.transport.messages.work import GroupGenerated, GroupScored, GroupsReserved
from ring_async.types import Group, PolicyVersion

LIMITS = TransportSection(max_frames=4, max_frame_bytes=1000, max_header_bytes=8192)
CODEC = Codec(LIMITS)


def carry(message: Message | bytes = b"\xc0", *, seq: int = 0) -> Carry:
    raw = message if isinstance(message, bytes) else CODEC.encode_message(message)
    return Carry(SCHEMA_VERSION, seq, seq - 1, 7, 0, False, "id", msgspec.Raw(raw))


def frames(*parts: bytes | Envelope) -> list[MemoryFrame]:
    return [MemoryFrame(part if isinstance(part, bytes) else CODEC.encode_envelope(part)) for part in parts]


def cause_of(decode: Any, argument: Any) -> str:
    with pytest.raises(CodecError) as caught:
        decode(argument)
    return caught.value.cause


def test_a_message_survives_the_wire() -> None:
    message = GroupGenerated(make_group(rewards=[1.0, None], lengths=3).header)
    envelope = CODEC.decode_to_inbox(frames(carry(message), b"ids", b"logprobs"))
    assert isinstance(envelope, Carry)
    assert (envelope.seq, envelope.after, envelope.message_id) == (0, -1, "id")
    assert CODEC.decode_message(envelope.message) == message


def test_buffers_are_viewed_not_copied() -> None:
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    (view, empty) = CODEC.check_buffers([array, np.empty((0, 5), np.float32)])
    assert np.shares_memory(np.frombuffer(view, np.uint8), array)
    assert (view.nbytes, view.format, empty.nbytes) == (48, "B", 0)


def test_each_fault_of_an_envelope_has_its_cause() -> None:
    decode = CODEC.decode_to_inbox
    hello = CODEC.encode_envelope(Hello(SCHEMA_VERSION, 1, "rollout-0", 0, 0))
    assert cause_of(decode, []) == "malformed"
    assert cause_of(decode, frames(b"")) == "truncated"
    assert cause_of(decode, frames(hello[:-1])) == "truncated"
    assert cause_of(decode, frames(hello + b"\x00")) == "malformed"
    assert cause_of(decode, frames(b"\xc1")) == "malformed"
    assert cause_of(decode, frames(b"GET / HTTP/1.1\r\n\r\n")) == "invalid"
    assert cause_of(decode, frames(hello, *[b""] * 4)) == "too_many_frames"
    assert cause_of(decode, frames(hello, bytes(1001))) == "frame_too_large"
    assert cause_of(decode, frames(bytes(8193))) == "header_too_large"
    assert cause_of(decode, frames(Hello(SCHEMA_VERSION + 1, 1, "rollout-0", 0, 0))) == "wrong_version"
    assert (
        cause_of(decode, frames(msgspec.msgpack.encode([1, SCHEMA_VERSION + 1, "a newer layout"]))) == "wrong_version"
    )
    assert cause_of(decode, frames(msgspec.msgpack.encode([99, SCHEMA_VERSION]))) == "unknown_type"
    assert cause_of(decode, frames(Welcome(SCHEMA_VERSION, 1, 1, 1, 1, 1))) == "unknown_type"
    assert cause_of(CODEC.decode_to_sender, frames(hello)) == "unknown_type"
    assert cause_of(decode, frames(Hello(SCHEMA_VERSION, 1, "", 0, 0))) == "invalid"
    assert cause_of(decode, frames(Hello(SCHEMA_VERSION, 1, "x" * 513, 0, 0))) == "invalid"
    assert cause_of(decode, frames(Hello(SCHEMA_VERSION, -2, "x", 0, 0))) == "invalid"
    assert cause_of(decode, frames(msgspec.msgpack.encode([3, SCHEMA_VERSION, 1, 1, "more"]))) == "invalid"


def test_each_fault_of_a_message_has_its_cause() -> None:
    def decode(data: bytes) -> Message:
        return CODEC.decode_message(msgspec.Raw(data))

    encode = msgspec.msgpack.encode
    assert cause_of(decode, encode({"type": "FormatDisk"})) == "unknown_type"
    assert cause_of(decode, encode({"type": "RenewLeases", "group_ids": [1]})) == "invalid"
    assert cause_of(decode, encode({"type": "RenewLeases"})) == "invalid"
    assert cause_of(decode, encode({"group_ids": []})) == "invalid"
    assert cause_of(decode, encode([1, 2])) == "invalid"
    assert cause_of(decode, encode({"type": "Done"})[:-1]) in ("malformed", "invalid")


def nested(depth: int) -> Any:
    value: Any = []
    for level in range(depth - 1):
        value = [value] if level % 2 else {"deeper": value}
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda part: TuneKnobs({"knob": part}),
        lambda part: UseWeights(WeightsAnnouncement(PolicyVersion(0, 1), "shm", {"manifest": part})),
        lambda part: StepCompleted(0, PolicyVersion(0, 1), {"metric": part}),
        lambda part: GroupGenerated(
            msgspec.structs.replace(
                make_group(rewards=[1.0]).header,
                prompt=msgspec.structs.replace(make_group(rewards=[1.0]).header.prompt, metadata={"entry": part}),
            )
        ),
    ],
)
def test_nesting_is_bounded_in_every_untyped_part(make: Any) -> None:
    deepest = MAX_NESTING - 1  # the map that holds it is a level of its own
    message = make(nested(deepest))
    assert CODEC.decode_message(msgspec.Raw(CODEC.encode_message(message))) == message
    too_deep = make(nested(deepest + 2))
    assert cause_of(CODEC.encode_message, too_deep) == "nesting"
    assert cause_of(CODEC.decode_message, msgspec.Raw(msgspec.msgpack.encode(too_deep))) == "nesting"


def test_nesting_beyond_the_stack_is_a_cause_not_a_crash() -> None:
    bottomless = b"\x91" * 7000 + b"\x90"
    knobs = b"\x82\xa4type\xa9TuneKnobs\xa5knobs\x81\xa1x" + bottomless
    assert cause_of(CODEC.decode_message, msgspec.Raw(knobs)) == "nesting"
    assert cause_of(CODEC.decode_to_inbox, frames(bottomless)) in ("nesting", "invalid")


def test_what_is_over_the_limits_does_not_leave() -> None:
    def check(buffers: Any) -> Any:
        return CODEC.check_buffers(buffers)

    assert cause_of(check, [b""] * 4) == "too_many_frames"
    assert cause_of(check, [bytes(1001)]) == "frame_too_large"
    assert cause_of(check, [np.zeros((4, 4))[:, 1]]) == "not_contiguous"
    assert cause_of(CODEC.encode_message, TuneKnobs({"x": "y" * 8000})) == "header_too_large"
    assert cause_of(CODEC.encode_message, TuneKnobs({"x": object()})) == "unencodable"
    with pytest.raises(CodecError, match=r"transport\.max_frame_bytes is 1000"):
        CODEC.check_buffers([bytes(1001)])


def test_the_largest_header_that_leaves_also_arrives() -> None:
    codec = Codec(TransportSection(max_header_bytes=8192))
    size = 8192 - 1024 - 4 * 512 - len(codec.encode_message(TuneKnobs({"x": "y" * 300}))) + 300
    encoded = codec.encode_message(TuneKnobs({"x": "y" * size}))
    envelope = Carry(SCHEMA_VERSION, 2**62, 2**62, 2**62, 2**62, True, "é" * 512, msgspec.Raw(encoded))
    assert codec.decode_to_inbox(frames(codec.encode_envelope(envelope))) is not None


@pytest.mark.parametrize("size", [10, 8192, 500_000])
def test_a_message_too_large_for_the_header_travels_as_the_last_frame(size: int) -> None:
    codec = Codec(TransportSection(max_header_bytes=8192, max_frames=3))
    message = TuneKnobs({"x": "y" * size})
    encoded, views = codec.encode(message, [b"data"])
    assert len(encoded) < 8192
    envelope = Carry(SCHEMA_VERSION, 1, 0, 1, 0, True, "id", msgspec.Raw(encoded))
    arrived = frames(codec.encode_envelope(envelope), *map(bytes, views))
    carried = codec.decode_to_inbox(arrived)
    read, buffers = codec.decode(carried.message, arrived)
    assert (read, [bytes(buffer) for buffer in buffers]) == (message, [b"data"])


def test_a_message_that_is_the_last_frame_counts_among_the_frames() -> None:
    codec = Codec(TransportSection(max_header_bytes=8192, max_frames=3))
    assert cause_of(lambda buffers: codec.encode(TuneKnobs({"x": "y" * 9000}), buffers), [b""] * 2) == "too_many_frames"
    empty = msgspec.Raw(msgspec.msgpack.encode(None))
    assert cause_of(lambda raw: codec.decode(raw, frames(b"")), empty) == "invalid"


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    metadata=st.dictionaries(st.text(max_size=8), plain, max_size=4),
    buffers=st.lists(st.binary(max_size=64), max_size=3),
)
@settings(max_examples=20, deadline=None)
def test_whatever_is_encoded_comes_back(metadata: dict[str, Any], buffers: list[bytes]) -> None:
    message = TuneKnobs(metadata)
    envelope = CODEC.decode_to_inbox(frames(carry(message), *views_of(buffers)))
    assert isinstance(envelope, Carry)
    assert CODEC.decode_message(envelope.message) == message


def views_of(buffers: list[bytes]) -> list[bytes]:
    return [bytes(view) for view in CODEC.check_buffers(buffers)]


def read(data: bytes) -> str:
    """Decode as either side would: the type found, or the cause why not."""
    found = []
    for decode in (CODEC.decode_to_inbox, CODEC.decode_to_sender):
        try:
            envelope: Any = decode(frames(data))
            if isinstance(envelope, Carry):
                envelope = CODEC.decode_message(envelope.message)
            found.append(type(envelope).__name__)
        except CodecError as error:
            found.append(error.cause)
    return " ".join(found)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_give_a_struct_or_a_cause(data: bytes) -> None:
    assert read(data)


@given(
    envelope=st.sampled_from(
        [
            carry(Done()),
            carry(GroupsReserved(())),
            Hello(SCHEMA_VERSION, 1, "rollout-0", 5, 6),
            Heard(SCHEMA_VERSION, 5, 6),
            Settled(SCHEMA_VERSION, 5, 6, ((1, None), (2, "no"))),
        ]
    ),
    position=st.integers(0, 200),
    value=st.integers(0, 255),
)
@settings(max_examples=100, deadline=None)
def test_one_changed_byte_gives_a_struct_or_a_cause(envelope: Envelope, position: int, value: int) -> None:
    data = bytearray(CODEC.encode_envelope(envelope))
    data[position % len(data)] = value
    assert read(bytes(data))


def test_an_older_peer_is_told_the_remedy() -> None:
    older = msgspec.msgpack.encode([1, SCHEMA_VERSION - 1, 1, "rollout-0", 0, 0])
    with pytest.raises(CodecError, match="run the same version of ring-async on every host") as caught:
        CODEC.decode_to_inbox(frames(older))
    assert (SCHEMA_VERSION, caught.value.cause) == (4, "wrong_version")
    assert "the peer speaks schema_version 3, this side 4" in str(caught.value)


ANY_COLUMNS = st.lists(
    st.builds(
        Column,
        st.from_regex(r"x_[a-z0-9_]{0,20}", fullmatch=True),
        st.sampled_from(sorted(DTYPES)),
        st.integers(1, 9),
    ),
    max_size=4,
    unique_by=lambda column: column.name,
)


@given(ANY_COLUMNS, st.lists(st.integers(1, 9), min_size=2, max_size=2))
def test_a_message_carries_columns_that_nobody_knows(columns: list[Column], lengths: list[int]) -> None:
    codec = Codec(TransportSection())
    group = make_group("g0", lengths=lengths, columns=columns)
    views = codec.check_buffers(group.buffers)
    message = codec.decode_message(msgspec.Raw(codec.encode_message(GroupScored(group.header))))
    assert isinstance(message, GroupScored)
    received = Group.from_buffers(message.group, views)
    assert received.header == group.header
    for name, array in group.columns.items():
        assert received.columns[name].tobytes() == array.tobytes()
        assert np.shares_memory(received.columns[name].view(np.uint8), array.view(np.uint8))
