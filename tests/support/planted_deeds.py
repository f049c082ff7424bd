"""What is done to a fleet at work, so that something is the matter with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from planted_fleet import COIN, SLOW_ACTORS, PlantedFleet
from ring_async.actors.base import Actor, ActorContext
from ring_async.actors.controller.controller import Controller
from ring_async.errors import StorageError

JUMP: list[float] = []
"""Seconds by which the wall clock was moved."""


async def _swap(fleet: PlantedFleet, **options: Any) -> None:
    fleet.controller.changes.swap_verifier("exact", COIN, options, author="ada")


def swap(**options: Any) -> Callable[[PlantedFleet], Coroutine[Any, Any, None]]:
    return lambda fleet: _swap(fleet, **options)


async def kill_for_good(fleet: PlantedFleet, actor_id: str = "rollout-1") -> None:
    """The actor dies, and its successor never comes up."""
    make = fleet._make

    def never(context: ActorContext) -> Actor | Controller:
        actor = make(context)
        if context.spec.actor_id == actor_id:
            actor.open = lambda: asyncio.sleep(1e6)  # type: ignore[method-assign, union-attr]
        return actor

    fleet._make = never  # type: ignore[method-assign]
    fleet.kill(actor_id)


async def kill_again_and_again(fleet: PlantedFleet) -> None:
    for _ in range(4):
        fleet.kill("reward-0")
        await asyncio.sleep(60.0)


async def fill_disk(fleet: PlantedFleet) -> None:
    def full(*_: Any) -> None:
        raise StorageError(
            f"{fleet.run_dir.replay}/replay-0: the replay store cannot be written: No space left on device; 65,536 "
            "bytes needed. No group is admitted until there is space on a writable disk; nothing acknowledged is lost"
        )

    fleet.actors["replay-0"].shard.put = full  # type: ignore[union-attr]


async def cut_weights(fleet: PlantedFleet) -> None:
    """One rollout never stages a version again."""
    fleet.actors["rollout-1"]._weights.take_up = lambda: asyncio.sleep(1e6)  # type: ignore[union-attr]


async def pause(fleet: PlantedFleet) -> None:
    await fleet.controller.pause()


async def slow_commits(fleet: PlantedFleet) -> None:
    replay = fleet.actors["replay-0"]
    on_compute = replay.on_compute  # type: ignore[union-attr]

    async def slowly(function: Callable[..., Any], *args: Any) -> Any:
        if getattr(function, "__name__", "") == "put":
            await asyncio.sleep(25.0)
        return await on_compute(function, *args)

    replay.on_compute = slowly  # type: ignore[union-attr, method-assign]


async def jump_clock(fleet: PlantedFleet) -> None:
    JUMP.append(3600.0)


async def silence(fleet: PlantedFleet) -> None:
    """An actor hangs: its heartbeats stop."""
    fleet.config.monitoring.__dict__["heartbeat_timeout_s"] = 30.0
    actor = fleet.actors["rollout-1"]
    actor._beat = lambda: asyncio.sleep(1e6)  # type: ignore[union-attr]


async def stop_evaluator(fleet: PlantedFleet) -> None:
    fleet.engines["evaluator-0"].generate = lambda request: asyncio.sleep(1e6)  # type: ignore[assignment, method-assign]


async def lengthen(fleet: PlantedFleet) -> None:
    """Responses grow (`later_tokens`), and with the length of the cache each token takes longer."""
    for engine in fleet.engines.values():
        engine._token_s *= 2.0


async def grow_hard(fleet: PlantedFleet) -> None:
    """From here on, every prompt of a source lies outside its window."""
    search = fleet.controller._dispatcher.prompts._searches["letters"]
    source = search.source
    make = source.prompt
    source.prompt = lambda index: msgspec.structs.replace(make(index), metadata={"last_digit": 99})  # type: ignore[method-assign]
    search.ahead._made.clear()


# -- the second ten


def slow_actor(actor_id: str, seconds: float) -> Callable[[PlantedFleet], Coroutine[Any, Any, None]]:
    """Each verdict takes one reward actor so much longer."""

    async def deed(fleet: PlantedFleet) -> None:
        SLOW_ACTORS[actor_id] = seconds

    return deed


async def both(fleet: PlantedFleet) -> None:
    """A rollout dies for good, and a slow verifier is put in force."""
    await kill_for_good(fleet)
    fleet.controller.changes.swap_verifier("exact", COIN, {"delay_s": 6.0}, author="ada")


async def slow_network(fleet: PlantedFleet) -> None:
    """One rollout needs twenty seconds for a version, and two for each group it sends."""
    rollout = fleet.actors["rollout-1"]
    take_up, deliver = rollout._weights.take_up, rollout._deliver  # type: ignore[union-attr]

    async def slowly() -> Any:
        await asyncio.sleep(20.0)
        return await take_up()

    async def late(group: Any) -> None:
        await asyncio.sleep(2.0)
        await deliver(group)

    rollout._weights.take_up, rollout._deliver = slowly, late  # type: ignore[union-attr, method-assign]


async def lengthen_prompts(fleet: PlantedFleet) -> None:
    """Prompts grow long: each response begins after four seconds of prefill."""
    for engine in fleet.engines.values():
        generate = engine.generate

        async def prefilled(request: Any, generate: Any = generate) -> Any:
            await asyncio.sleep(4.0)
            return await generate(request)

        engine.generate = prefilled  # type: ignore[method-assign]


async def press_kv_cache(fleet: PlantedFleet) -> None:
    """The KV cache is short: the engines hold a third of the responses, and retracted ones begin again."""
    for engine in fleet.engines.values():
        engine._capacity //= 3
        engine._token_s *= 1.5


async def hog(fleet: PlantedFleet, factor: float) -> None:
    """The evaluator takes the machine: for twenty seconds of every forty all rollouts are slower by this factor."""
    rollouts = [engine for name, engine in fleet.engines.items() if name.startswith("rollout")]
    while True:
        for engine in rollouts:
            engine._token_s *= factor
        await asyncio.sleep(20.0)
        for engine in rollouts:
            engine._token_s /= factor
        await asyncio.sleep(20.0)


async def slow_disk(fleet: PlantedFleet) -> None:
    """Each commit of replay takes four seconds."""
    replay = fleet.actors["replay-0"]
    on_compute = replay.on_compute  # type: ignore[union-attr]

    async def slowly(function: Callable[..., Any], *args: Any) -> Any:
        if getattr(function, "__name__", "") == "put":
            await asyncio.sleep(4.0)
        return await on_compute(function, *args)

    replay.on_compute = slowly  # type: ignore[union-attr, method-assign]
