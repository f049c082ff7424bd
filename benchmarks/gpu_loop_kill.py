"""`configs/cluster.yaml` on a Ray cluster, and the engine's process killed with SIGKILL while responses are under way.

Owns: the cluster of one host, the kill, what is looked at afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from bars import Bar
from gpu_loop_fleet import Fleet, log
from ring_async.storage.audit import audit

if TYPE_CHECKING:
    from bench_gpu_loop import Loop

RAY = (sys.executable, "-m", "ray.scripts.scripts")
RAY_PORT = 6390
NUM_VERSIONS = 5
BACK_BAR_S = 60.0


@contextlib.asynccontextmanager
async def cluster_of_this_host(resources: list[str]) -> AsyncIterator[dict[str, str]]:
    """A Ray cluster of one host; yields the environment of those who join it."""
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    words = [
        *RAY, "start", "--head", "--block", f"--port={RAY_PORT}", "--include-dashboard=false",
        "--object-store-memory=80000000", "--disable-usage-stats", *resources,
    ]  # fmt: skip
    process = subprocess.Popen(
        words, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        await asyncio.sleep(8.0)  # `up` waits for the port, not for the cluster's resources
        yield environment | {"RAY_ADDRESS": f"{_address()}:{RAY_PORT}"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, 10.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)


def _address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


async def measure_kill(loop: Loop) -> None:
    """A kill after the second version; then so many more, of weights that were made meanwhile; then the audit."""
    options, setting = loop.options, loop.setting
    overrides = [f"model.path={setting.model}", *setting.kill]
    async with (
        cluster_of_this_host(setting.ray_resources) as environment,
        Fleet(setting.runs, "kill", setting.cluster, overrides, environment) as fleet,
    ):
        figures: dict[str, Any] = {"start_s": round(await fleet.until_trains(options.start_s), 1)}
        await fleet.until_version(2, options.start_s)
        before = _rollout(fleet)
        pid = setting.engine_pid(fleet)
        os.kill(pid, signal.SIGKILL)
        killed_s = time.monotonic()
        log(f"kill: process {pid} killed; before: {before}")
        back = await fleet.until(lambda: _has_gone_on(fleet, before), "tokens after the kill", options.start_s)
        figures["back_s"] = round(time.monotonic() - killed_s, 1) if back else None
        figures["rollout_before"], figures["rollout_after"] = before, _rollout(fleet)
        figures["version_when_back"] = fleet.version
        await fleet.until_version(max(NUM_VERSIONS, fleet.version + 2), options.start_s)
        await fleet.end()
        figures["versions"] = fleet.version
    report = audit(fleet.dir.path)
    figures |= {"audit": report.to_text()[-500:], "failed": report.counts.get("failed")}
    figures["staleness_max"] = [step["staleness_max"] for step in fleet.steps()]
    if figures["back_s"] is not None:
        loop.bars["cluster.yaml: generates again after a kill"] = Bar(figures["back_s"], BACK_BAR_S, "s", True)
    loop.bars["cluster.yaml: audit clean"] = Bar(float(report.is_clean), 1.0, "yes")
    loop.say("kill", figures)
    fleet.keep(setting.out)


def _rollout(fleet: Fleet) -> dict[str, Any]:
    """What the rollout says of itself; empty while nobody answers."""
    with contextlib.suppress(Exception):
        actors = fleet.client.get("/v1/status")["actors"]
        return next(actor for actor in actors if actor["actor_id"] == "rollout-0")["counters"] or {}
    return {}


def _has_gone_on(fleet: Fleet, before: dict[str, Any]) -> bool:
    """Whether tokens came after the kill: more than the chunks that were on their way."""
    after = _rollout(fleet)
    is_new_process = after.get("generated_tokens", 0) < before.get("generated_tokens", 0)
    grown = after.get("generated_tokens", 0) - (0 if is_new_process else before.get("generated_tokens", 0))
    return bool(after) and grown > 2000 and after.get("running", 0) > 0
