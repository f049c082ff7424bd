"""The whole system in one process: the real actors over the in-process channel, so that races are unit tests.

    OneProcessFleet ──starts, kills, restarts──▶ Controller, Replay, Reward, Rollout, Learner, Evaluator

Owns: what the launcher and Ray do elsewhere: it asks the controller what should run, starts it, and reports what died.
Engines, training and weights are scripted; store, journal, ledger, admission and batch plans are the real ones. Run it
under `virtual_clock.run_virtual`: an hour of a run takes seconds and comes out the same every time.
`ConfiguredFleet` has nothing scripted, and runs in real time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ring_async.actors.base import Actor, ActorContext
from ring_async.actors.controller.controller import Controller
from ring_async.actors.evaluator import Evaluator
from ring_async.actors.learner import Learner, Rows
from ring_async.actors.replay.replay import Replay
from ring_async.actors.reward import Reward
from ring_async.actors.rollout import Rollout
from ring_async.config.schema import Config
from ring_async.core.roster import CONTROLLER_ID, ActorSpec, Role
from ring_async.data.base import PromptSource
from ring_async.data.registry import make_source
from ring_async.errors import PeerTimeoutError
from ring_async.placement.make_actor import make_actor
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry.trace import Tracer
from ring_async.testing.builders import make_prompt
from ring_async.testing.scripted_engine import Script, ScriptedEngine, seeded_script
from ring_async.testing.scripted_training import NamedWeights, ScriptedTrainEngine
from ring_async.training.base import StepReport
from ring_async.transport.base import Outbox
from ring_async.transport.memory import MemoryHub, MemoryTransport
from ring_async.transport.messages.fleet import (
    ActorExit,
    ActorWaiting,
    FleetWanted,
    ReportFleet,
)
from ring_async.types import Prompt
from ring_async.verifiers.kept_files import keep_configured

RECONCILE_S = 0.1
RESTART_S = 0.2
"""How long a controller that was killed is away."""


class CountingSource:
    """A `PromptSource` of numbered prompts, which carry the `last_digit` of their number.

    Args:
        name: of the source.
        num_prompts: after so many the first comes again; None: they are endless.
    """

    def __init__(self, name: str, num_prompts: int | None = None) -> None:
        self.name = name
        self.num_prompts = num_prompts

    def prompt(self, index: int) -> Prompt:
        number = index % self.num_prompts if self.num_prompts else index
        last_digit = number % 10
        return make_prompt(f"{self.name}/{number}", source=self.name, text=f"{number} + 1 =", last_digit=last_digit)

    def held_out(self, index: int) -> Prompt:
        return make_prompt(f"{self.name}/held-out/{index}", source=self.name, text=f"{index} + 2 =")


class CharTokenizer:
    """One id a character; enough of a tokenizer for rollouts and rewards."""

    chat_template = None

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(character) % 256 for character in text]

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))


class PacedLearner(Learner):
    """A learner whose steps take time of the loop's clock."""

    def __init__(self, *arguments: Any, step_s: float) -> None:
        super().__init__(*arguments)
        self._pace_s = step_s

    async def _step(self, rows: Rows) -> StepReport:
        await asyncio.sleep(self._pace_s)
        return await super()._step(rows)


class OneProcessFleet:
    """A run whose processes are tasks.

    Args:
        runs: folder that holds the run's folder.
        script: responses of the engines.
        token_s: time for one token of a response, in seconds of the loop's clock.
        train_s: time that the learner takes for one batch.
        make_train_engine: for each incarnation of the learner.
        is_resumed: go on from the run's journal and checkpoints.
    """

    def __init__(
        self,
        config: Config,
        runs: Path,
        *,
        script: Script | None = None,
        token_s: float = 0.05,
        train_s: float = 0.0,
        make_train_engine: Callable[[], ScriptedTrainEngine] = ScriptedTrainEngine,
        hub: MemoryHub | None = None,
        is_resumed: bool = False,
    ) -> None:
        self.run_dir = RunDir(runs / config.run.name)
        self.run_dir.create()
        self.config = config = keep_configured(config, self.run_dir.verifiers)
        self.hub = hub or MemoryHub(config.transport)
        self.weights = NamedWeights()
        self.train_engines: list[ScriptedTrainEngine] = []
        self.engines: dict[str, ScriptedEngine] = {}
        self.actors: dict[str, Actor | Controller] = {}
        self.exits: list[ActorExit] = []
        self._script = script or seeded_script()
        self._token_s = token_s
        self._train_s = train_s
        self._make_train_engine = make_train_engine
        self._is_resumed = is_resumed
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._specs: dict[str, ActorSpec] = {}
        self._controller_endpoint = ""
        self.num_controllers = 0
        """How many controllers were started so far."""

    @property
    def controller(self) -> Controller:
        controller = self.actors[CONTROLLER_ID]
        assert isinstance(controller, Controller)
        return controller

    async def run(self) -> str:
        """Run to the end; returns why it failed, or an empty string."""
        await self._restart_controller()
        transport = self._transport("launcher")
        link = transport.connect(self._controller_endpoint, peer=CONTROLLER_ID)
        try:
            while True:
                self._collect_exits()
                if CONTROLLER_ID not in self._tasks:
                    await self._restart_controller()
                    await link.redirect(self._controller_endpoint)
                wanted = await self._ask(link)
                if wanted is not None and wanted.is_finished:
                    return wanted.failure
                if wanted is not None:
                    await self._reconcile(wanted)
                await asyncio.sleep(RECONCILE_S)
        finally:
            await link.close()
            await self._end()

    def is_up(self, actor_id: str) -> bool:
        """Whether an actor's process runs, and was not killed."""
        task = self._tasks.get(actor_id)
        return task is not None and not task.done() and not task.cancelling()

    def kill(self, actor_id: str) -> None:
        """End an actor in the middle of whatever it does: it acknowledges nothing more and says no goodbye."""
        task = self._tasks[actor_id]

        def cancel() -> None:
            if not task.cancelling():  # a second cancellation would interrupt what frees its addresses
                task.cancel("killed")

        # On the loop's next turn: an actor that was started in this very turn has begun then, and frees what it took.
        asyncio.get_running_loop().call_soon(cancel)

    async def _restart_controller(self) -> None:
        """Start the controller, again if it has ended: as the launcher does, where its predecessor listened."""
        self.num_controllers += 1
        if self.num_controllers > 1:
            self._is_resumed = True
            await asyncio.sleep(RESTART_S)
        self._start(ActorSpec(CONTROLLER_ID, Role.CONTROLLER, self.num_controllers - 1))
        self._controller_endpoint = self.controller.endpoint

    async def _ask(self, link: Outbox) -> FleetWanted | None:
        """What the controller wants to run; None if it did not answer."""
        exits = tuple(self.exits)
        asking = asyncio.create_task(link.request(ReportFleet(exits, self.waiting()), timeout_s=5.0))
        try:
            await asyncio.wait([asking, self._tasks[CONTROLLER_ID]], return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                return None
            wanted = asking.result().message
        except PeerTimeoutError:
            return None
        finally:
            asking.cancel()
        assert isinstance(wanted, FleetWanted)
        self.exits = self.exits[len(exits) :]
        return wanted

    async def _reconcile(self, wanted: FleetWanted) -> None:
        specs = {spec.actor_id: spec for spec in wanted.actors}
        for actor_id, task in list(self._tasks.items()):
            if actor_id != CONTROLLER_ID and specs.get(actor_id) != self._specs[actor_id] and not task.done():
                if not task.cancelling():
                    task.cancel("not wanted any more")
                await asyncio.gather(task, return_exceptions=True)
                del self._tasks[actor_id]
        without_place = {one.actor_id for one in self.waiting()}
        for spec in specs.values() if wanted.may_start else ():
            if spec.actor_id not in self._tasks and spec.actor_id not in without_place:
                self._start(spec)

    def waiting(self) -> tuple[ActorWaiting, ...]:
        """The actors that have no place where they could start; none, unless a subclass says otherwise."""
        return ()

    def _start(self, spec: ActorSpec) -> None:
        tracer = Tracer(None, spec.actor_id)
        context = ActorContext(
            spec, self.config, self.run_dir, self._transport(spec.actor_id), self._controller_endpoint, tracer
        )
        actor = self._make(context)
        self.actors[spec.actor_id] = actor
        self._specs[spec.actor_id] = spec
        self._tasks[spec.actor_id] = asyncio.create_task(actor.live(), name=spec.actor_id)

    def _make(self, context: ActorContext) -> Actor | Controller:
        match context.spec.role:
            case Role.CONTROLLER:
                return Controller(
                    context, lambda name, section: CountingSource(name, **section.options), is_resumed=self._is_resumed
                )
            case Role.REPLAY:
                return Replay(context)
            case Role.REWARD:
                return Reward(context, CharTokenizer)
            case Role.ROLLOUT:
                return Rollout(context, self._new_engine(context.spec.actor_id), self.weights, CharTokenizer)
            case Role.EVALUATOR:
                engine = self._new_engine(context.spec.actor_id)
                return Evaluator(context, engine, self.weights, CharTokenizer, self.make_sources)
            case _:
                return PacedLearner(context, self._new_train_engine, self.weights, step_s=self._train_s)

    def make_sources(self) -> Mapping[str, PromptSource]:
        """The mixture's sources, by name."""
        return {name: CountingSource(name) for name in self.config.mixture}

    def _new_engine(self, actor_id: str) -> ScriptedEngine:
        capacity = self.config.rollout.max_running_requests
        self.engines[actor_id] = ScriptedEngine(actor_id, script=self._script, token_s=self._token_s, capacity=capacity)
        return self.engines[actor_id]

    def _new_train_engine(self) -> ScriptedTrainEngine:
        self.train_engines.append(self._make_train_engine())
        return self.train_engines[-1]

    def _transport(self, actor_id: str) -> MemoryTransport:
        return MemoryTransport(actor_id, self.hub)

    def _collect_exits(self) -> None:
        for actor_id, task in list(self._tasks.items()):
            if not task.done():
                continue
            if task.cancelled():
                cause = "its process was killed"
            else:
                cause = repr(task.exception()) if task.exception() else "returned"
            del self._tasks[actor_id]
            if actor_id == CONTROLLER_ID:
                if not task.cancelled() and task.exception():
                    raise AssertionError(f"the controller ended: {cause}")
                # killed, or it has ended the run and its answer was lost: its successor finds the end in the journal
                continue
            self.exits.append(ActorExit(actor_id, self._specs[actor_id].incarnation, cause))

    async def _end(self) -> None:
        controller = self._tasks.pop(CONTROLLER_ID, None)
        if controller is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(controller, 60.0)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


class ConfiguredFleet(OneProcessFleet):
    """A fleet in one process with the configured model, engine, training, weight channel, sources and verifiers.

    Only the processes and the sockets of the data plane are missing. Run it under `asyncio.run`: its threads compute.

    Args:
        socket_dir: folder for the sockets of the weight channel.
    """

    def __init__(self, config: Config, runs: Path, socket_dir: Path) -> None:
        super().__init__(config, runs)
        self._socket_dir = socket_dir
        self._opening = asyncio.Lock()

    def _make(self, context: ActorContext) -> Actor | Controller:
        if context.spec.role == Role.CONTROLLER:
            return Controller(context, make_source, is_resumed=False)
        actor: Actor = make_actor(context, self._socket_dir, None)
        actor.open = functools.partial(self._open_in_turn, actor.open)  # type: ignore[method-assign]
        return actor

    async def _open_in_turn(self, open_actor: Callable[[], Awaitable[None]]) -> None:
        """Models are loaded one at a time: transformers cannot load two at once in one process."""
        async with self._opening:
            await open_actor()
