"""From `weights.channel` to the two ends of the channel it names.

Owns: the names. Does not own: the channels, nor what each needs to work here (its entry says so).
"""

from __future__ import annotations

from pathlib import Path

from ring_async.config.registry import Registry
from ring_async.config.schema import Config
from ring_async.transport.curve import CurveKeys
from ring_async.transport.weights.base import ChannelEntry, WeightReceiver, WeightSender

CHANNELS: Registry[ChannelEntry] = Registry(
    "weights.channel",
    {
        "shm": "ring_async.transport.weights.entries:ShmEntry",
        "zmq": "ring_async.transport.weights.entries:ZmqEntry",
        "nccl": "ring_async.transport.weights.entries:NcclEntry",
    },
)


def make_weight_sender(
    config: Config, *, socket_dir: Path, actor_id: str, keys: CurveKeys | None = None
) -> WeightSender:
    """The sending end of the configured channel.

    Args:
        config: of the run.
        socket_dir: folder (mode 0700) for `ipc://` sockets, where the channel needs one.
        actor_id: names the sockets.
        keys: of the run, for CURVE on TCP.

    Raises:
        WeightsError: the channel cannot work here, e.g. NCCL without CuPy.
    """
    return CHANNELS.find(config.weights.channel).make_sender(config, socket_dir, actor_id, keys)


def make_weight_receiver(config: Config, *, actor_id: str, keys: CurveKeys | None = None) -> WeightReceiver:
    """The receiving end of the configured channel. Arguments and errors as for `make_weight_sender`."""
    return CHANNELS.find(config.weights.channel).make_receiver(config, actor_id, keys)


def channel_problems(config: Config) -> list[str]:
    """Why `weights.channel` cannot work with this configuration, one line each."""
    return CHANNELS.problems(config.weights.channel, config)


def channel_host_problems(config: Config) -> list[str]:
    """Why weights can neither be sent nor received on this host, one line each. Ask where learner and rollouts run."""
    name = config.weights.channel
    return [CHANNELS.line(name, lack) for lack in CHANNELS.find(name).check_host(config)]
