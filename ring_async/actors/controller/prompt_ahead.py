"""Prompts of one source, made before they are asked for, in a thread: some tasks take seconds for one.

    start(cursor, number) ──numbers──▶ thread ──prompts──▶ at(cursor) ──▶ PromptSearch

Owns: the prompts that are ready, and the one thread that makes more. Does not own the cursor, or which prompt is issued
(`prompt_search`).
Invariants: prompts are made in the order of their numbers, and what is made follows from the number alone; the loop
never waits for one. Until `start` is first called prompts are made where they are asked for.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from ring_async.data.base import PromptSource
from ring_async.errors import PromptRefusedError, RingAsyncError
from ring_async.types import Prompt

Refusal = Callable[[Prompt], str]
"""Says why the model cannot take a prompt; an empty string if it can."""


class PromptFailedError(RingAsyncError):
    """The prompt at `index` cannot be made, or the model cannot take it."""

    def __init__(self, index: int, error: Exception) -> None:
        what = "is refused" if isinstance(error, PromptRefusedError) else f"cannot be made: {type(error).__name__}"
        super().__init__(f"prompt {index} {what}: {error}")
        self.index = index


class ThreadPerCall(Executor):
    """Runs each call in a daemon thread of its own: one that never returns keeps no process alive."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # a thread cannot be taken back

        def run() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # handed to whoever waits
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=run, name="prompts", daemon=True).start()
        return future


THREADS = ThreadPerCall()
NUM_AHEAD = 32
"""Prompts of a source that are made beyond those asked for, so that few requests start a thread."""


class PromptAhead:
    """See the module.

        ahead.start(7, 3)      # prompts 7 to 9 are being made, and those behind them
        ahead.at(7)            # None until prompt 7 is made

    Args:
        source: makes the prompts.
        refusal: asked about each prompt that is made.
    """

    def __init__(self, source: PromptSource, refusal: Refusal) -> None:
        self._source = source
        self._refusal = refusal
        self._made: deque[tuple[int, Prompt | PromptFailedError]] = deque()
        """In the order of their numbers, without a gap. The thread appends, the loop takes away in front."""
        self._making: asyncio.Future[None] | None = None
        self._is_started = False
        self.lock = threading.Lock()
        """Held while the source makes prompts: sources need not stand two threads."""

    def start(self, index: int, number: int, num_more: int = NUM_AHEAD) -> asyncio.Future[None] | None:
        """Have a thread make what is missing of `number` prompts from `index` on, and `num_more` beyond them for the
        requests to come; None if nothing is missing.
        """
        self._is_started = True
        if self._making is not None and not self._making.done():
            return self._making
        self._forget_before(index)
        begin = self._made[-1][0] + 1 if self._made else index
        if begin >= index + number:
            return None
        loop = asyncio.get_running_loop()
        self._making = loop.run_in_executor(THREADS, self._make, begin, index + number + num_more)
        return self._making

    def at(self, index: int) -> Prompt | None:
        """The prompt at an index; None: it is still being made.

        Raises:
            PromptFailedError: it cannot be made, or the model cannot take it.
        """
        if not self.holds(index):
            if self._is_started:
                return None
            self._made.clear()
            self._make(index, index + 1)
        found = self._made[0][1]
        if isinstance(found, PromptFailedError):
            raise found
        return found

    def holds(self, index: int) -> bool:
        """Whether the prompt at an index is made, or known to be impossible."""
        self._forget_before(index)
        return bool(self._made) and self._made[0][0] == index

    def is_late(self, index: int) -> bool:
        """Whether the prompt at an index should be there, and is still being made."""
        return self._is_started and not self.holds(index)

    def close(self) -> None:
        """Wait for no thread any more."""
        if self._making is not None:
            self._making.cancel()

    def _forget_before(self, index: int) -> None:
        while self._made and self._made[0][0] < index:
            self._made.popleft()

    def _make(self, begin: int, end: int) -> None:
        for index in range(begin, end):
            with self.lock:
                self._made.append((index, self._attempt(index)))

    def _attempt(self, index: int) -> Prompt | PromptFailedError:
        try:
            prompt = self._source.prompt(index)
            if reason := self._refusal(prompt):
                raise PromptRefusedError(f"{prompt.prompt_id}: {reason}")
        except Exception as error:  # a source's library complains about a row with errors of its own
            return PromptFailedError(index, error)
        return prompt
