"""The base of all messages between actors: typed structs, in one module for each conversation.

Events are in the past tense, commands in the imperative. A message is a MessagePack header; arrays travel beside it as
raw buffers, in the order that the struct named in the message gives (`Group.buffers`, `PackedBatch.buffers`).
"""

from __future__ import annotations

import msgspec

SCHEMA_VERSION = 4
"""Grows with every incompatible change of a message; receivers refuse other versions."""


class Message(msgspec.Struct, frozen=True, tag=True):
    """Root of all messages: the tag is the class name."""


class Done(Message, frozen=True):
    """The answer to a command that was carried out."""
