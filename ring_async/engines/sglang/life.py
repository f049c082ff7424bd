"""One life of a server, from its first answer to its end: its connections, and what it served under which serial.

Owns: the calls that make up an update, an abort, a pause; the table from serials to versions, which begins anew with
every life. Does not own the order of a swap (`engine`).
Invariant: `versions[serial]` is entered before any token of that serial can arrive.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ring_async.engines.sglang import requests
from ring_async.engines.sglang.http import ControlClient, ServerAddress, StreamReader
from ring_async.engines.sglang.requests import Body
from ring_async.engines.sglang.response import Leg
from ring_async.engines.sglang.server import SglangServer
from ring_async.engines.sglang.versions import Release, release_of
from ring_async.engines.sglang.weights import WeightStaging
from ring_async.errors import WeightsError
from ring_async.types import PolicyVersion

UPDATE_DEADLINE_S = 300.0
_PROBE_ID = "probe."
_PROBE_IDS = (10, 11, 12)
_NOTHING = PolicyVersion(-1, -1)
"""What a server holds before its first version: random weights, whose tokens go nowhere."""


@dataclass(frozen=True, slots=True)
class PreparedUpdate:
    """A staged version as the next update of one life; good for one use."""

    policy_version: PolicyVersion
    body: Body


@dataclass(slots=True, eq=False)
class ServerLife:
    """Made by `open_life`; `close` in the end.

    Attributes:
        server: the process, None if it is not ours.
        has_tags: whether tokens come with the serial of their weights; known after `probe`.
    """

    server: SglangServer | None
    control: ControlClient
    reader: StreamReader
    release: Release
    tensor_parallel: int
    versions: dict[int, PolicyVersion]
    serial: int = 0
    has_tags: bool = False
    is_closed: bool = False

    async def prepare(self, staging: WeightStaging) -> PreparedUpdate:
        """Make ready what can be made ready while generation goes on."""
        assert staging.policy_version is not None
        payloads = await asyncio.to_thread(staging.payloads, self.tensor_parallel)
        return PreparedUpdate(staging.policy_version, requests.update_weights_body(payloads, self.serial + 1))

    async def update(self, prepared: PreparedUpdate) -> None:
        """Put a staged version in force; the server has no weights of its own to fall back to if this fails.

        Raises:
            ServerRefusedError: the server could not load it; what it holds now is a mixture.
            ServerLostError
        """
        self.versions[self.serial + 1] = prepared.policy_version
        if self.release.has_update_sessions:
            await self.control.post(requests.BEGIN_UPDATE, {}, timeout_s=UPDATE_DEADLINE_S)
        try:
            await self.control.post(requests.UPDATE_WEIGHTS, prepared.body, timeout_s=UPDATE_DEADLINE_S)
        finally:
            if self.release.has_update_sessions:
                await self.control.post(requests.END_UPDATE, {}, timeout_s=UPDATE_DEADLINE_S)
        self.serial += 1

    async def update_checked(self, prepared: PreparedUpdate) -> None:
        """The first update of a server that started with random weights: every parameter must have changed.

        Raises:
            WeightsError: some did not; their names are in the message.
        """
        before = await self._checksums()
        await self.update(prepared)
        unreached = [name for name, checksum in (await self._checksums()).items() if before.get(name) == checksum]
        if unreached:
            raise WeightsError(
                f"version {prepared.policy_version}: {len(unreached)} of the server's parameters kept their random "
                f"start values, e.g. {min(unreached)}; the published names do not reach them"
            )

    async def _checksums(self) -> dict[str, str]:
        reply = await self.control.post(requests.CHECK_WEIGHTS, requests.checksum_body(), timeout_s=UPDATE_DEADLINE_S)
        return {
            f"rank {number}: {name}": checksum
            for number, rank in enumerate(reply["ranks"])
            for name, checksum in rank["checksums"].items()
        }

    async def probe(self) -> None:
        """Sample one token: the server must answer, with a log-probability; and see whether it tags."""
        leg = Leg(_PROBE_ID, salt=_NOTHING, serial=self.serial)
        body = requests.generate_body(
            leg.request_id,
            _PROBE_IDS,
            max_new_tokens=1,
            temperature=1.0,
            stop_token_ids=(),
            stream_interval=1,
            salt=leg.request_id,
            ignore_stops=True,
        )
        await self.reader.read(leg, body)
        self.has_tags = bool(leg.serials)

    async def abort(self, request_id: str | None) -> None:
        """Abort one request, or (None) all. The reply comes at once; streams end when the server has stepped again."""
        await self.control.post(requests.ABORT, requests.abort_body(request_id))

    async def pause(self) -> None:
        await self.control.post(requests.PAUSE, requests.pause_body())

    async def resume(self) -> None:
        await self.control.post(requests.CONTINUE, requests.continue_body())

    async def cache_loads(self) -> Body:
        """The figures of the server's scheduler: running and waiting requests, use of its cache; empty before the
        first.
        """
        reply = await self.control.get(f"{requests.LOADS}?include=core")
        loads: list[Body] = reply.get("loads") or [{}]
        return loads[0]

    async def close(self) -> None:
        """Break off what is read, then end the server. Idempotent."""
        self.is_closed = True
        await self.reader.close()
        await self.control.close()
        if self.server is not None:
            await self.server.close()


async def open_life(
    server: SglangServer | None, address: ServerAddress, start_version: PolicyVersion | None, tensor_parallel: int
) -> ServerLife:
    """Connect to a server that answers.

    Args:
        server: the process behind the address, if it is ours.
        address: of the server.
        start_version: of the weights it started with; None: random ones.
        tensor_parallel: how many ranks it has.

    Raises:
        ConfigError: its release is too old.
        ServerLostError, ServerRefusedError
    """
    control = ControlClient(address)
    try:
        info = await control.get(requests.SERVER_INFO)
        release = release_of(str(info.get("version", "")))
    except BaseException:
        await control.close()
        raise
    reader = StreamReader(address)
    return ServerLife(server, control, reader, release, tensor_parallel, {0: start_version or _NOTHING})
