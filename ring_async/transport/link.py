"""Ways for frames to travel, as the sessions need them: `channel` gives them over ZMQ, `memory` in process.

A link may drop, repeat, delay and reorder whole messages; it never alters or joins them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Link(Protocol):
    """A way for frames to reach one inbox."""

    def transmit(self, frames: Sequence[bytes | memoryview]) -> bool:
        """Hand over the frames of one message; False when there is no connection or no room."""
        ...

    def redirect(self, endpoint: str) -> None: ...

    def close(self) -> None: ...


class ReplyLink(Protocol):
    """A way for frames to reach the senders of one inbox."""

    def transmit(self, address: bytes, frames: Sequence[bytes | memoryview]) -> bool:
        """Hand over the frames of one message for the sender at `address`; False when it cannot be reached."""
        ...

    def close(self) -> None: ...
