"""The replay actor in its own process, fed and asked over ZMQ: the far end of `bench_replay`.

python replay_over_zmq.py RUN_DIR SOCKET_DIR CONTROLLER_ENDPOINT      (the actor; started by `cycle_over_zmq`)
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from ring_async.actors.base import ActorContext
from ring_async.actors.replay.replay import Replay
from ring_async.config.load import config_from_mapping
from ring_async.core.roster import ActorSpec
from ring_async.storage.run_dir import RunDir
from ring_async.telemetry.trace import Tracer
from ring_async.testing.builders import make_config_mapping
from ring_async.transport.channel import ZmqTransport
from ring_async.transport.curve import make_socket_dir
from ring_async.transport.messages.batches import BatchReady, RequestBatch
from ring_async.transport.messages.fleet import (
    HeartbeatSeen,
    Member,
    Register,
    Registered,
)
from ring_async.transport.messages.versions import CheckpointCovered
from ring_async.transport.messages.work import GroupScored
from ring_async.types import Group, PolicyVersion


def settings(template: Group, groups_per_batch: int) -> dict[str, object]:
    header = template.header
    longest = header.trajectories[0].num_tokens
    return make_config_mapping(
        budget={"token_budget": groups_per_batch * header.num_response_tokens},
        rollout={"group_size": len(header.trajectories), "max_tokens": longest},
        learner={"token_capacity": 4 * (longest + header.num_prompt_tokens)},
        replay={"map_size_bytes": 4 << 30, "commit_interval_s": 0.001},
        transport={"credits": 64},
    )


def cycle_over_zmq(folder: Path, template: Group, groups_per_batch: int, seconds: float) -> float:
    """Groups per second, from the first send to the packed batch in this process, each group a message of its own."""
    mapping = settings(template, groups_per_batch)
    run_dir = RunDir(folder)
    run_dir.create()
    run_dir.config.write_text(json.dumps(mapping))
    socket_dir = make_socket_dir()
    try:
        return asyncio.run(_drive(run_dir, socket_dir, template, groups_per_batch, seconds))
    finally:
        shutil.rmtree(socket_dir, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


async def _drive(run_dir: RunDir, socket_dir: Path, template: Group, groups_per_batch: int, seconds: float) -> float:
    config = config_from_mapping(json.loads(run_dir.config.read_text()), "bench")
    transport = ZmqTransport("bench", config.transport, socket_dir, None)
    control = transport.open_inbox("control")
    member: asyncio.Future[Member] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        while True:
            delivery = await control.receive()
            message = delivery.message
            if isinstance(message, Register):
                delivery.reply(Registered((), None, False, "", 0))
                member.set_result(message.member)
            elif type(message).__name__ == "Heartbeat":
                delivery.reply(HeartbeatSeen(is_known=True))
            else:
                delivery.ack()

    serving = asyncio.create_task(serve())
    actor = subprocess.Popen([sys.executable, __file__, str(run_dir.path), str(socket_dir), control.endpoint])
    try:
        async with asyncio.timeout(60.0):
            joined = await member
        data = transport.connect(joined.data_endpoint, peer="replay-0")
        commands = transport.connect(joined.control_endpoint, peer="replay-0")
        number, version, num_timed, began_s = 0, 0, 0, 0.0
        while not began_s or time.perf_counter() - began_s < seconds:
            if version == 3:  # files have grown
                began_s = time.perf_counter()
            sent = []
            for _ in range(groups_per_batch):
                header = _named(template, number, version)
                sent.append(await data.send(GroupScored(header), template.buffers, message_id=header.group_id))
                number += 1
            await asyncio.gather(*sent)
            ask = RequestBatch(version + 1, PolicyVersion(0, version), 10.0)
            answer = await data.request(ask, timeout_s=30.0)
            assert isinstance(answer.message, BatchReady)
            version += 1
            await commands.request(CheckpointCovered(version - 1), timeout_s=10.0)
            num_timed += groups_per_batch * bool(began_s)
        return num_timed / (time.perf_counter() - began_s)
    finally:
        actor.kill()
        actor.wait()
        serving.cancel()
        await control.close()
        await transport.close()


def _named(template: Group, number: int, version: int) -> msgspec.Struct:
    group_id = f"bench-{number:08d}"
    trajectories = tuple(
        msgspec.structs.replace(
            old,
            trajectory_id=f"{group_id}/{index}",
            segments=(msgspec.structs.replace(old.segments[0], policy_version=PolicyVersion(0, version)),),
        )
        for index, old in enumerate(template.header.trajectories)
    )
    return msgspec.structs.replace(template.header, group_id=group_id, trajectories=trajectories)


def main() -> None:
    run_dir, socket_dir, controller_endpoint = sys.argv[1:]
    config = config_from_mapping(json.loads(RunDir(Path(run_dir)).config.read_text()), "bench")

    async def live() -> None:
        context = ActorContext(
            spec=ActorSpec("replay-0", "replay", 0),
            config=config,
            run_dir=RunDir(Path(run_dir)),
            transport=ZmqTransport("replay-0", config.transport, Path(socket_dir), None),
            controller_endpoint=controller_endpoint,
            tracer=Tracer(None, "replay-0"),
        )
        await Replay(context).live()

    asyncio.run(live())


if __name__ == "__main__":
    main()
