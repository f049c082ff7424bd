"""Fixtures of the tests with real sockets and processes."""

from __future__ import annotations

import numpy as np
import pytest
import zmq


@pytest.fixture(scope="session", autouse=True)
def _zero_copy_collector() -> None:
    """Start pyzmq's collector of zero-copy frames: its thread and pipes live as long as the process, on purpose.

    It starts with the first large frame; unless that is before the first census, that test would look like a leak.
    """
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    frame = zmq.Frame(np.zeros(1 << 17, np.uint8), copy=False)
    del frame
    socket.close(linger=0)
    context.term()
