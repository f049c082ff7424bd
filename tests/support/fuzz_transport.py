"""A seeded mutation fuzzer for the wire: codec, sessions and sockets under bytes that almost make sense.

    make fuzz                                            # 1,000,000 frames, about two minutes
    python -m tests.support.fuzz_transport --frames 50000 --seed 7

Valid messages of every type are mutated and delivered to an inbox and an outbox, most of them directly, every
fiftieth through a real `ipc` socket, while an honest actor keeps sending and asking. Fails on an exception that
escapes, on an honest message lost, doubled or late (10 s), and on memory growth over 10 MB after the first tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psutil
import zmq

from ring_async.config.schema import TransportSection
from ring_async.core.fleet.states import ActorState
from ring_async.errors import TransportError
from ring_async.records.figures import RolloutFigures
from ring_async.testing.builders import make_group
from ring_async.transport.channel import ZmqTransport
from ring_async.transport.codec import Answered, Carry, Codec, Heard, Hello, Settled, Unknown, Welcome
from ring_async.transport.curve import make_socket_dir
from ring_async.transport.inbox import SessionInbox
from ring_async.transport.memory import MemoryFrame
from ring_async.transport.messages.base import SCHEMA_VERSION, Done, Message
from ring_async.transport.messages.batches import BatchReady
from ring_async.transport.messages.changes import TuneKnobs
from ring_async.transport.messages.fleet import Heartbeat
from ring_async.transport.messages.versions import UseWeights, WeightsAnnouncement
from ring_async.transport.messages.work import GroupGenerated
from ring_async.transport.outbox import SessionOutbox
from ring_async.types import PolicyVersion

MAX_GROWTH_BYTES = 10_000_000
LIMITS = TransportSection(max_frames=8, max_frame_bytes=4096, max_header_bytes=16_384)
BATCH = 500
"""Mutated messages between two looks at the honest actor."""

Frames = list[bytes]


@dataclass
class Report:
    """What a run of the fuzzer saw."""

    frames: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    honest: int = 0
    growth_bytes: int = 0
    seconds: float = 0.0


class Mutator:
    """Valid messages, and what chance makes of them."""

    def __init__(self, seed: int, codec: Codec) -> None:
        self.chance = random.Random(seed)
        self._codec = codec
        group = make_group(rewards=[1.0, 0.0])
        self._messages: list[Message] = [
            Done(),
            GroupGenerated(group.header),
            BatchReady(1),
            Heartbeat("rollout-0", 1, ActorState.RUNNING, counters=RolloutFigures(busy_s=1.5)),
            TuneKnobs({"rollout.temperature": [1.0, {"deeper": None}]}),
            UseWeights(WeightsAnnouncement(PolicyVersion(1, 2), "shm", {"buckets": [{"bytes": 3}]})),
        ]
        self._bodies = [codec.encode_message(message) for message in self._messages]

    def frames(self, session: int, seq: int) -> Frames:
        """One message, usually spoilt. `session` and `seq` let some of them come close to being accepted."""
        chance = self.chance
        frames = [self._codec.encode_envelope(self._envelope(session, seq))]
        frames += [chance.randbytes(chance.randrange(0, 64)) for _ in range(chance.randrange(0, 4))]
        if chance.random() < 0.1:
            return frames
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            self._spoil(frames)
        return frames

    def _envelope(self, session: int, seq: int) -> msgspec.Struct:
        chance, version = self.chance, SCHEMA_VERSION
        body = chance.choice(self._bodies)
        if chance.random() < 0.2:
            body = self._bytes(bytearray(body))
        raw = msgspec.Raw(body)
        kind = chance.randrange(12)
        if kind < 6:
            return Carry(version, seq, seq - 1, session, chance.randrange(9), chance.random() < 0.3, f"id-{seq}", raw)
        if kind < 8:
            return Hello(version, chance.randrange(2**40), f"fuzz-{chance.randrange(8)}", session, chance.randrange(9))
        number = chance.randrange(9)
        return chance.choice(
            (
                Heard(version, session, number),
                Welcome(version, number, chance.randrange(4), session, chance.randrange(-1, 20), seq),
                Settled(version, session, number, ((seq, None), (seq + 1, "no"))),
                Answered(version, session, number, seq, raw),
                Unknown(version),
            )
        )

    def _spoil(self, frames: Frames) -> None:
        chance = self.chance
        kind = chance.randrange(16)
        if kind == 0 and len(frames) > 1:
            frames.pop(chance.randrange(len(frames)))
        elif kind == 1:
            frames *= chance.randrange(2, 12)
        elif kind == 2:
            chance.shuffle(frames)
        elif kind == 3:
            frames.insert(chance.randrange(len(frames) + 1), bytes(chance.choice((0, 4096, 4097, 16_385))))
        else:
            frames[0] = self._bytes(bytearray(frames[0]))

    def _bytes(self, data: bytearray) -> bytes:
        chance = self.chance
        position = chance.randrange(len(data)) if data else 0
        kind = chance.randrange(9)
        if kind == 0 and data:
            data[position] ^= 1 << chance.randrange(8)
        elif kind == 1 and data:
            data[position] = chance.randrange(256)
        elif kind == 2:
            del data[position:]
        elif kind == 3:
            data[position:position] = chance.randbytes(chance.randrange(1, 32))
        elif kind == 4:
            data[position : position + chance.randrange(1, 16)] = b""
        elif kind == 5:
            # Lengths that promise gigabytes: array, map, string and binary of 2³² − 1.
            data[position : position + 5] = chance.choice((b"\xdd", b"\xdf", b"\xdb", b"\xc6")) + b"\xff\xff\xff\xff"
        elif kind == 6:
            data[position : position + 1] = chance.choice((b"\x91", b"\x81\xa1x")) * chance.choice((10, 100, 4000))
        elif kind == 7:
            data += data[position:]
        else:
            data[:] = chance.randbytes(chance.randrange(0, 64))
        return bytes(data)


class Silence:
    """A link that swallows what the fuzzed ends say."""

    def transmit(self, *_: Any) -> bool:
        return True

    def redirect(self, endpoint: str) -> None: ...

    def close(self) -> None: ...


async def fuzz(num_frames: int, seed: int) -> Report:
    """Deliver `num_frames` mutated frames. Raises: AssertionError, or whatever escapes from the code under test."""
    directory = make_socket_dir()
    transport = ZmqTransport("replay-0", LIMITS, directory, None)
    loop = asyncio.get_running_loop()
    escaped: list[str] = []
    loop.set_exception_handler(lambda _, context: escaped.append(repr(context.get("exception", context["message"]))))
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    try:
        run = _Run(Report(), Mutator(seed, Codec(LIMITS)), transport, stranger)
        start_s = time.monotonic()
        baseline = 0
        while run.report.frames < num_frames:
            run.deliver_batch()
            await run.check_honest()
            assert not escaped, escaped[0]
            if not baseline and run.report.frames >= num_frames // 10:
                baseline = _memory_bytes()
        run.report.growth_bytes = _memory_bytes() - baseline
        run.report.seconds = time.monotonic() - start_s
        await run.close()
        assert run.report.growth_bytes <= MAX_GROWTH_BYTES, f"memory grew by {run.report.growth_bytes} bytes"
        return run.report
    finally:
        stranger.close(linger=0)
        context.term()
        await transport.close()
        shutil.rmtree(directory)


class _Run:
    def __init__(self, report: Report, mutator: Mutator, transport: ZmqTransport, stranger: Any) -> None:
        self.report = report
        self._mutator = mutator
        codec = Codec(LIMITS)
        self._inbox = SessionInbox(endpoint="fuzz://inbox", owner="fuzz", num_credits=16, codec=codec)
        self._outbox = SessionOutbox(endpoint="fuzz://outbox", sender="fuzz", peer="fuzz", codec=codec)
        self._inbox.attach(Silence())
        self._outbox.attach(Silence())
        self._socket_inbox = transport.open_inbox("data")
        self._stranger = stranger
        stranger.connect(self._socket_inbox.endpoint)
        self._honest = transport.connect(self._socket_inbox.endpoint, peer="replay-0")
        self._seqs: Counter[bytes] = Counter()
        self._arrived: list[str] = []
        self._server = asyncio.create_task(self._serve())
        self._asked: list[asyncio.Task[Any]] = []

    def deliver_batch(self) -> None:
        chance = self._mutator.chance
        for number in range(BATCH):
            address = b"fuzz-%d" % chance.randrange(64)
            known = self._inbox._sessions.get(address)
            session, seq = (known.number, known.accepted + 1) if known else (0, 0)
            if chance.random() < 0.2:
                session, seq = self._outbox._session, chance.randrange(32)
            frames = self._mutator.frames(session, seq)
            self.report.frames += len(frames)
            received = [MemoryFrame(frame) for frame in frames]
            self._inbox.on_frames(address, received)
            self._outbox.on_frames(received)
            if number % 50 == 0:
                try:
                    self._stranger.send_multipart(frames, zmq.NOBLOCK)
                except zmq.Again:
                    pass
        while (delivery := self._inbox.receive_nowait()) is not None:
            self.report.accepted += 1
            chance.choice((delivery.ack, delivery.ack, lambda d=delivery: d.refuse("no")))()

    async def check_honest(self) -> None:
        """One message and one question of the honest actor arrive, once, in time."""
        async with asyncio.timeout(10):
            message_id = f"honest-{self.report.honest}"
            await (await self._honest.send(Done(), [b"payload"], message_id=message_id))
            await self._honest.request(Done(), timeout_s=10)
        assert self._arrived == [message_id], f"sent {message_id}, arrived {self._arrived}"
        self._arrived.clear()
        self.report.honest += 2
        self._asked = [task for task in self._asked if not task.done()]
        if len(self._asked) < 4:
            self._asked.append(asyncio.create_task(self._ask()))

    async def _ask(self) -> None:
        """Give the fuzzed outbox something unsettled, for the mutated outcomes to hit."""
        with contextlib.suppress(TransportError):  # whatever the rubbish said has to become an error of ours
            await self._outbox.request(Done(), timeout_s=0.05)

    async def _serve(self) -> None:
        while True:
            delivery = await self._socket_inbox.receive()
            if delivery.sender == "replay-0":
                if not delivery.is_request:
                    self._arrived.append(delivery.message_id)
                delivery.ack()
            else:
                delivery.refuse("a stranger's")

    async def close(self) -> None:
        self.report.causes = self._inbox.rejected + self._outbox.rejected + self._socket_inbox.rejected
        self._server.cancel()
        await asyncio.gather(*self._asked)
        await self._outbox.close()
        await self._inbox.close()


def _memory_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=None, help="printed; the same seed makes the same frames")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    logging.disable(logging.WARNING)
    report = asyncio.run(fuzz(options.frames, seed))
    print(
        f"{report.frames:,} frames in {report.seconds:.0f} s: {report.accepted:,} messages accepted, "
        f"{report.causes.total():,} rejected, {report.honest:,} honest ones unharmed, "
        f"memory {report.growth_bytes / 1e6:+.1f} MB"
    )
    for cause, count in report.causes.most_common():
        print(f"  {cause:20s}{count:>10,}")


if __name__ == "__main__":
    sys.exit(main())
