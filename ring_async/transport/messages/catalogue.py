"""Every message there is: what the codec accepts.

Owns: the list. Modules of messages are imported here, so that a type which nobody has used yet is known all the same.
"""

from __future__ import annotations

from ring_async.transport.messages import batches, changes, fleet, ranks, versions, work
from ring_async.transport.messages.base import Message

CONVERSATIONS = (batches, changes, fleet, ranks, versions, work)


def all_message_types() -> tuple[type[Message], ...]:
    """Every concrete message, for the codec's tagged union."""
    return tuple(Message.__subclasses__())
