"""The life that all actors share: early commands, a controller that moves, a process that was stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

from ring_async.actors.base import Actor, ActorContext
from ring_async.clock import monotonic_s
from ring_async.core.roster import CONTROLLER_ID, ActorSpec, Role
from ring_async.storage.run_dir import RunDir, write_json
from ring_async.telemetry.trace import Tracer
from ring_async.testing.builders import make_config
from ring_async.testing.virtual_clock import VirtualClockLoop, run_virtual
from ring_async.transport.base import Inbox
from ring_async.transport.memory import MemoryHub, MemoryTransport
from ring_async.transport.messages.base import Done, Message
from ring_async.transport.messages.fleet import Heartbeat, HeartbeatSeen, Register, Registered, Shutdown
from ring_async.transport.messages.versions import CheckpointCovered

OPENING_S = 5.0
CONFIG = make_config(monitoring__heartbeat_timeout_s=10.0)
REGISTERED = Registered((), None, is_paused=False, resume_from="", learner_incarnation=0)


class Slow(Actor):
    """Takes a while to open, and carries out commands only then."""

    role: ClassVar[Role] = Role.REPLAY

    def __init__(self, context: ActorContext) -> None:
        super().__init__(context)
        self.has_opened = False
        self.covered: list[int] = []
        self.num_registrations = 0

    async def open(self) -> None:
        await asyncio.sleep(OPENING_S)
        self.has_opened = True

    async def joined(self, registered: Registered) -> None:
        self.num_registrations += 1

    async def on_command(self, message: Message) -> Message:
        assert self.has_opened
        assert isinstance(message, CheckpointCovered)
        self.covered.append(message.plan_number)
        return Done()


class Rig:
    """One actor, and the inbox of a controller that answers it."""

    def __init__(self, path: Path) -> None:
        self.hub = MemoryHub()
        self.run_dir = RunDir(path)
        self.inbox = self.listen("controller-0")
        transport = MemoryTransport("replay-0", self.hub)
        spec = ActorSpec("replay-0", Role.REPLAY, 0)
        self.actor = Slow(
            ActorContext(spec, CONFIG, self.run_dir, transport, self.inbox.endpoint, Tracer(None, "replay-0"))
        )
        self.commands = MemoryTransport(CONTROLLER_ID, self.hub).connect("memory://replay-0/control", peer="replay-0")

    def listen(self, name: str) -> Inbox:
        return MemoryTransport(name, self.hub).open_inbox("control")

    async def answer(self, inbox: Inbox) -> None:
        while True:
            delivery = await inbox.receive()
            if isinstance(delivery.message, Register):
                delivery.reply(REGISTERED)
            elif isinstance(delivery.message, Heartbeat):
                delivery.reply(HeartbeatSeen(is_known=self.actor.num_registrations > 0))

    @contextlib.asynccontextmanager
    async def living(self) -> AsyncIterator[asyncio.Task[None]]:
        answering = asyncio.create_task(self.answer(self.inbox))
        life = asyncio.create_task(self.actor.live())
        try:
            yield life
        finally:
            for task in (life, answering):
                task.cancel()
            await asyncio.gather(life, answering, return_exceptions=True)
            await self.commands.close()


def test_commands_wait_until_the_actor_is_open(tmp_path: Path):
    async def main() -> None:
        rig = Rig(tmp_path)
        async with rig.living():
            early = [rig.commands.request(CheckpointCovered(number), timeout_s=60.0) for number in (1, 2, 3)]
            await asyncio.gather(*early)
            assert monotonic_s() >= OPENING_S
            assert rig.actor.covered == [1, 2, 3]

    run_virtual(main(), limit_s=100.0)


def test_an_actor_may_be_told_to_leave_before_it_is_open(tmp_path: Path):
    async def main() -> None:
        rig = Rig(tmp_path)
        async with rig.living() as life:
            await rig.commands.request(Shutdown(0.0), timeout_s=1.0)
            assert monotonic_s() < OPENING_S
            await life
            assert rig.actor.covered == []

    run_virtual(main(), limit_s=100.0)


def test_a_controller_that_listens_elsewhere_is_found_through_the_runs_folder(tmp_path: Path):
    async def main() -> None:
        rig = Rig(tmp_path)
        async with rig.living() as life:
            await asyncio.sleep(2 * OPENING_S)
            await rig.inbox.close()
            moved = rig.listen("controller-elsewhere")
            write_json(rig.run_dir.endpoints, {"control": moved.endpoint})
            answering = asyncio.create_task(rig.answer(moved))
            await asyncio.sleep(100.0)
            assert not life.done()
            assert rig.actor.controller.endpoint == moved.endpoint
            answering.cancel()

    run_virtual(main(), limit_s=300.0)


def test_an_actor_that_was_stopped_does_not_take_its_own_silence_for_the_controllers(tmp_path: Path):
    async def main() -> None:
        rig = Rig(tmp_path)
        async with rig.living() as life:
            await asyncio.sleep(2 * OPENING_S)
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualClockLoop)
            loop.jump(1000.0)
            await asyncio.sleep(10.0)
            assert not life.done()

    run_virtual(main(), limit_s=2000.0)


def test_an_actor_without_a_controller_ends(tmp_path: Path):
    async def main() -> None:
        rig = Rig(tmp_path)
        async with rig.living() as life:
            await asyncio.sleep(2 * OPENING_S)
            await rig.inbox.close()
            done, _ = await asyncio.wait([life], timeout=100.0)
            assert done
            assert "controller-0 silent for" in repr(life.exception())

    run_virtual(main(), limit_s=300.0)
