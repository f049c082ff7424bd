"""Samples for the live page, read by a process of their own.

    page ──SampleQuery──▶ SampleReader ──a line of JSON──▶ python -m ring_async.monitoring.live.sample_process
                                       ◀──a line of JSON──

Owns: the query's bounds, and the reading process: started at the first question, ended when nobody has asked for
`IDLE_S`. Rejected: reading in the controller. Loading a tokenizer and decoding thousands of tokens would hold its event
loop, and with it heartbeats and reservations.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from ring_async.errors import RefusedError
from ring_async.monitoring.live.frames import Watched

ANSWER_S = 60.0
"""Longest time for one answer; the first loads the tokenizer."""
IDLE_S = 300.0
MAX_ANSWER_BYTES = 64 << 20

Whole = Annotated[int | None, Field(ge=0, le=1 << 31)]


class SampleQuery(BaseModel):
    """The filters of the page; see `monitoring.samples.Choice`."""

    model_config = ConfigDict(extra="forbid")
    num: Annotated[int, Field(ge=1, le=20)] = 3
    source: Annotated[str, Field(max_length=64)] = ""
    min_reward: FiniteFloat | None = None
    max_reward: FiniteFloat | None = None
    min_staleness: Whole = None
    max_staleness: Whole = None
    min_tokens: Whole = None
    max_tokens: Whole = None
    is_trained: bool = False


class SampleReader:
    """Answers queries about one run, one at a time."""

    def __init__(self, run: Watched) -> None:
        self._run = run
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._end: asyncio.TimerHandle | None = None

    async def read(self, query: SampleQuery) -> list[dict[str, Any]]:
        """The groups that fit, the newest first, token by token.

        Raises:
            RefusedError: they could not be read in time, or at all; says why.
        """
        choice = query.model_dump() | {"policy_version": self._run.status().policy_version, "has_tokens": True}
        async with self._turn:
            if self._end is not None:
                self._end.cancel()
            try:
                async with asyncio.timeout(ANSWER_S):
                    answer = await self._ask(choice)
            except (OSError, TimeoutError, ValueError) as error:
                await self.close()
                raise RefusedError(f"the samples cannot be read now: {error!r}") from error
            loop = asyncio.get_running_loop()
            self._end = loop.call_later(IDLE_S, self._kill)
        if "refusal" in answer:
            raise RefusedError(answer["refusal"])
        groups: list[dict[str, Any]] = answer["groups"]
        return groups

    async def close(self) -> None:
        """End the reading process."""
        if self._end is not None:
            self._end.cancel()
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ask(self, choice: dict[str, Any]) -> dict[str, Any]:
        if self._process is None or self._process.returncode is not None:
            words = [sys.executable, "-m", "ring_async.monitoring.live.sample_process", str(self._run.run_dir.path)]
            self._process = await asyncio.create_subprocess_exec(
                *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MAX_ANSWER_BYTES
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(choice).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        answer: dict[str, Any] = json.loads(line)  # an empty line: the process died
        return answer

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
