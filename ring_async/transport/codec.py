"""Bytes on the wire ⇄ typed structs, within limits.

Owns: the frames of one message, `[header, buffer, buffer, …]`; the envelopes that the session protocol puts around
messages; every check of bytes that come from outside, and the cause under which a bad one is counted.
Does not own: sockets, credits, order (`outbox`, `inbox`), what messages mean.

A message that is too large for the header travels as the last frame, and the header's place for it is empty: a prompt
with a megabyte of unit tests is no reason to lose a group.

Invariants: a header is MessagePack, decoded by msgspec into declared types alone: nothing is unpickled and no code is
chosen by the wire. Buffers are never copied: they go out as the memory they were given in, and come in as views into
the received frames. Whatever the bytes are, decoding returns a struct or raises `CodecError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol, TypeVar, Union

import msgspec
from msgspec import Meta

from ring_async.columns import Buffer
from ring_async.config.schema import TransportSection
from ring_async.errors import CodecError
from ring_async.transport.messages.base import SCHEMA_VERSION, Message
from ring_async.transport.messages.catalogue import all_message_types

MAX_NESTING = 32
"""Deepest nesting of lists and maps in the untyped parts of a message (`Prompt.metadata`, manifests, knobs)."""

MAX_ID_CHARS = 512
"""Longest actor id, message id."""

ENVELOPE_BYTES = 1024 + 4 * MAX_ID_CHARS
"""Room that is left in a header for the envelope around the message."""

APART = msgspec.msgpack.encode(None)
"""Stands in the envelope for a message that is the last frame."""

Count = Annotated[int, Meta(ge=-1, le=2**62)]
Identifier = Annotated[str, Meta(max_length=MAX_ID_CHARS)]


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Root of what the two ends of a session tell each other. `docs/transport.md` draws the exchange."""

    schema_version: int


class Hello(Envelope, frozen=True, tag=1):
    """Sender → inbox, on every new connection and when it has been silent: who I am and what I have heard."""

    number: Count
    """Grows with every hello of this sender; the welcome repeats it."""
    sender: Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
    session: Count
    """The session last welcomed, or 0."""
    heard: Count
    """Number of the last outcome heard in that session."""


class Carry(Envelope, frozen=True, tag=2):
    """Sender → inbox: one message. Buffers follow as further frames."""

    seq: Count
    """Grows with every message of this sender."""
    after: Count
    """The message carried before this one; accepted only directly after that one, so that none is skipped."""
    session: Count
    heard: Count
    is_request: bool
    message_id: Identifier
    message: msgspec.Raw


class Heard(Envelope, frozen=True, tag=3):
    """Sender → inbox: acknowledges outcomes when no other message does."""

    session: Count
    heard: Count


class Welcome(Envelope, frozen=True, tag=11):
    """Inbox → sender: the state of your session here."""

    number: Count
    """Number of the hello that is answered, or -1 for the notice that a message is missing."""
    instance: Count
    """Random, new in each life of the inbox: a sender that sees it change knows that its requests under way are lost.
    """
    session: Count
    """Random, one per memory of this sender."""
    credits: Count
    accepted: Count
    """`seq` of the last message accepted; everything after it is to be sent again."""


class Settled(Envelope, frozen=True, tag=12):
    """Inbox → sender: messages acknowledged (None) or refused (the reason)."""

    session: Count
    number: Count
    """Number of the first outcome here; outcomes are numbered from 1 in every session."""
    outcomes: tuple[tuple[Count, str | None], ...]
    """(seq, reason)."""


class Answered(Envelope, frozen=True, tag=13):
    """Inbox → sender: the answer to a request. Buffers follow as further frames."""

    session: Count
    number: Count
    seq: Count
    message: msgspec.Raw


class Unknown(Envelope, frozen=True, tag=14):
    """Inbox → sender: I have no session with you; say hello."""


ToInbox = Hello | Carry | Heard
ToSender = Welcome | Settled | Answered | Unknown

_encode = msgspec.msgpack.Encoder().encode
_message_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Union[all_message_types()])  # noqa: UP007
_to_inbox_decoder: msgspec.msgpack.Decoder[ToInbox] = msgspec.msgpack.Decoder(ToInbox)
_to_sender_decoder: msgspec.msgpack.Decoder[ToSender] = msgspec.msgpack.Decoder(ToSender)
_TAGS_TO_INBOX = {1, 2, 3}
_TAGS_TO_SENDER = {11, 12, 13, 14}


class Frame(Protocol):
    """A received frame: `zmq.Frame`, or anything else that keeps its memory alive through views."""

    @property
    def buffer(self) -> memoryview: ...

    def __len__(self) -> int: ...


E = TypeVar("E", bound=Envelope)


class Codec:
    """Encodes and decodes messages within one set of limits.

        raw = codec.encode_message(GroupGenerated(header))     # put into an envelope by the outbox
        codec.decode_message(raw)                              # the message again, or a CodecError with its cause

    Args:
        limits: most frames and bytes of a message, in both directions.
    """

    def __init__(self, limits: TransportSection) -> None:
        self.max_frames = limits.max_frames
        self.max_frame_bytes = limits.max_frame_bytes
        self.max_header_bytes = limits.max_header_bytes

    # -- out

    def encode(self, message: Message, buffers: Sequence[Buffer]) -> tuple[bytes, tuple[memoryview, ...]]:
        """Serialize a message with its buffers: what goes into the envelope, and the frames that follow it.

        Raises:
            CodecError: what `encode_message` and `check_buffers` raise.
        """
        encoded, views = self.encode_message(message), self.check_buffers(buffers)
        if len(encoded) + ENVELOPE_BYTES <= self.max_header_bytes:
            return encoded, views
        return APART, self.check_buffers((*views, memoryview(encoded)))

    def encode_message(self, message: Message) -> bytes:
        """Serialize a message now, so that later changes to mutable parts of it do not travel.

        Raises:
            CodecError: `header_too_large`, `nesting`, or `unencodable`.
        """
        if type(message) not in _UNTYPED:
            raise CodecError("unencodable", f"{type(message).__name__} is not among the declared messages")
        try:
            encoded = _encode(message)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise CodecError("unencodable", f"{type(message).__name__}: {error}") from error
        self._check_nesting(message)
        if len(encoded) > max(self.max_header_bytes - ENVELOPE_BYTES, self.max_frame_bytes):
            raise CodecError(
                "header_too_large",
                f"{type(message).__name__} takes {len(encoded)} bytes; transport.max_frame_bytes is "
                f"{self.max_frame_bytes}; send arrays as buffers",
            )
        return encoded

    def check_buffers(self, buffers: Sequence[Buffer]) -> tuple[memoryview, ...]:
        """View buffers as bytes, uncopied.

        Raises:
            CodecError: `too_many_frames`, `frame_too_large`, `not_contiguous`.
        """
        if len(buffers) >= self.max_frames:
            raise CodecError(
                "too_many_frames", f"{len(buffers)} buffers and a header; transport.max_frames is {self.max_frames}"
            )
        views = []
        for position, buffer in enumerate(buffers):
            view = memoryview(buffer)  # type: ignore[arg-type]
            if not view.c_contiguous:
                raise CodecError("not_contiguous", f"buffer {position} is a strided view; pass a contiguous copy")
            if view.nbytes > self.max_frame_bytes:
                raise CodecError(
                    "frame_too_large",
                    f"buffer {position} has {view.nbytes} bytes; transport.max_frame_bytes is {self.max_frame_bytes}",
                )
            views.append(view.cast("B") if view.nbytes else memoryview(b""))
        return tuple(views)

    def encode_envelope(self, envelope: Envelope) -> bytes:
        return _encode(envelope)

    # -- in

    def decode_to_inbox(self, frames: Sequence[Frame]) -> ToInbox:
        """Read what a sender says. Raises: CodecError."""
        envelope: ToInbox = self._decode_envelope(_to_inbox_decoder, _TAGS_TO_INBOX, frames)
        return envelope

    def decode_to_sender(self, frames: Sequence[Frame]) -> ToSender:
        """Read what an inbox says. Raises: CodecError."""
        envelope: ToSender = self._decode_envelope(_to_sender_decoder, _TAGS_TO_SENDER, frames)
        return envelope

    def decode(self, raw: msgspec.Raw, frames: Sequence[Frame]) -> tuple[Message, tuple[memoryview, ...]]:
        """Read a message and its buffers, out of its envelope or out of the last frame.

        Raises:
            CodecError: what `decode_message` raises.
        """
        buffers = tuple([frame.buffer for frame in frames[1:]])
        if bytes(memoryview(raw)[:1]) != APART or not buffers:
            return self.decode_message(raw), buffers
        return self.decode_message(buffers[-1]), buffers[:-1]

    def decode_message(self, raw: msgspec.Raw | memoryview) -> Message:
        """Read a message out of its envelope.

        Raises:
            CodecError: `unknown_type`, `invalid`, `malformed`, `nesting`.
        """
        try:
            message: Message = _message_decoder.decode(raw)
        except RecursionError as error:
            raise CodecError("nesting", "deeper than the decoder goes") from error
        except msgspec.ValidationError as error:
            raise CodecError(*self._diagnose_message(raw, error)) from error
        except (ValueError, OverflowError) as error:
            raise CodecError("malformed", str(error)) from error
        self._check_nesting(message)
        return message

    def _check_nesting(self, message: Message) -> None:
        untyped = _UNTYPED[type(message)]
        if untyped is not None:
            for part in untyped(message):
                if _is_deeper(part, MAX_NESTING):
                    raise CodecError("nesting", f"{type(message).__name__} nests deeper than {MAX_NESTING}")

    def _decode_envelope(self, decoder: msgspec.msgpack.Decoder[Any], tags: set[int], frames: Sequence[Frame]) -> Any:
        if not frames:
            raise CodecError("malformed", "no frames")
        if len(frames) > self.max_frames:
            raise CodecError("too_many_frames", f"{len(frames)}; the limit is {self.max_frames}")
        if len(frames[0]) > self.max_header_bytes:
            raise CodecError("header_too_large", f"{len(frames[0])} bytes; the limit is {self.max_header_bytes}")
        for frame in frames[1:]:
            if len(frame) > self.max_frame_bytes:
                raise CodecError("frame_too_large", f"{len(frame)} bytes; the limit is {self.max_frame_bytes}")
        header = frames[0].buffer
        try:
            envelope = decoder.decode(header)
        except RecursionError as error:
            raise CodecError("nesting", "deeper than the decoder goes") from error
        except msgspec.ValidationError as error:
            raise CodecError(*_diagnose_envelope(header, tags, error)) from error
        except (ValueError, OverflowError) as error:
            raise CodecError("truncated" if "truncated" in str(error) else "malformed", str(error)) from error
        if envelope.schema_version != SCHEMA_VERSION:
            raise CodecError("wrong_version", _of_another_version(envelope.schema_version))
        return envelope

    def _diagnose_message(self, raw: msgspec.Raw | memoryview, error: Exception) -> tuple[str, str]:
        try:
            tag = _PEEK_MESSAGE.decode(raw).type
        except (ValueError, OverflowError, RecursionError):
            return "invalid", str(error)
        if tag not in _MESSAGE_TAGS:
            return "unknown_type", repr(tag)[:80]
        return "invalid", f"{tag}: {error}"


class _Peek(msgspec.Struct):
    type: str


_PEEK_MESSAGE = msgspec.msgpack.Decoder(_Peek)
_PEEK_ENVELOPE = msgspec.msgpack.Decoder(list[msgspec.Raw])
_PEEK_INT = msgspec.msgpack.Decoder(int)


def _diagnose_envelope(header: memoryview, tags: set[int], error: Exception) -> tuple[str, str]:
    """Tell a peer of another version from invalid bytes: tag and version come first in every envelope."""
    try:
        fields = _PEEK_ENVELOPE.decode(header)
        tag, version = _PEEK_INT.decode(fields[0]), _PEEK_INT.decode(fields[1])
    except (ValueError, OverflowError, IndexError, RecursionError):
        return "invalid", str(error)
    if version != SCHEMA_VERSION:
        return "wrong_version", _of_another_version(version)
    if tag not in tags:
        return "unknown_type", f"envelope {tag}"
    return "invalid", str(error)


def _of_another_version(schema_version: int) -> str:
    return (
        f"the peer speaks schema_version {schema_version}, this side {SCHEMA_VERSION}; "
        "run the same version of ring-async on every host"
    )


def tag_of(message_type: type[Message]) -> str:
    """The name under which a message type travels."""
    return str(message_type.__struct_config__.tag)


Walk = Callable[[Any], Sequence[Any]]
"""A function from a struct to its untyped parts."""


def _untyped_parts(info: msgspec.inspect.Type) -> Walk | None:
    """A function that finds the parts of type Any in values of a type; None if there are no such parts.

    msgspec bounds the nesting of typed parts by their types; only these need a check of their own.
    """
    inspect = msgspec.inspect
    if isinstance(info, inspect.AnyType):
        return _itself
    if isinstance(info, inspect.DictType):
        return _itself if _untyped_parts(info.value_type) else None
    if isinstance(info, inspect.StructType):
        fields = [(field.name, found) for field in info.fields if (found := _untyped_parts(field.type))]
        return _of_fields(fields) if fields else None
    if isinstance(info, (inspect.ListType, inspect.VarTupleType)):
        found = _untyped_parts(info.item_type)
        return _of_items(found) if found else None
    if isinstance(info, inspect.UnionType):
        alternatives = [found for alternative in info.types if (found := _untyped_parts(alternative))]
        return _of_optional(alternatives[0]) if alternatives else None
    return None


def _itself(part: Any) -> Sequence[Any]:
    return (part,)


def _of_fields(fields: Sequence[tuple[str, Walk]]) -> Walk:
    if len(fields) == 1:
        name, found = fields[0]
        return lambda struct: found(getattr(struct, name))
    return lambda struct: [part for name, found in fields for part in found(getattr(struct, name))]


def _of_items(found: Walk) -> Walk:
    return lambda items: [part for item in items for part in found(item)]


def _of_optional(found: Walk) -> Walk:
    return lambda value: () if value is None else found(value)


def _is_deeper(part: Any, limit: int) -> bool:
    """Whether lists and maps nest more than `limit` deep. Iterative: the answer must not overflow the stack."""
    if not part:
        return False
    level = [part]
    for _ in range(limit + 1):
        below: list[Any] = []
        for value in level:
            if type(value) is dict:
                below.extend(v for v in value.values() if type(v) is dict or type(v) is list)
            elif type(value) is list:
                below.extend(v for v in value if type(v) is dict or type(v) is list)
        if not below:
            return False
        level = below
    return True


_MESSAGE_TAGS = {tag_of(message_type) for message_type in all_message_types()}
_UNTYPED = {kind: _untyped_parts(msgspec.inspect.type_info(kind)) for kind in all_message_types()}
