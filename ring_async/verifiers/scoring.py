"""Judging a group: every call under a deadline, every failure typed, no failure a reward.

Owns: how a verifier is called (threads for sync ones, the loop for async ones, one call for batches), deadlines, and
what counts as a verdict. Does not own: worker processes (`isolated`), quarantine, or what becomes of a failed group.

Invariants: `score_group` returns one finite, bounded verdict per response or raises `VerifierError`, whatever a
verifier raises (`StopIteration` and `SystemExit` included) or returns; it returns by its deadline unless the verifier
keeps deadlines itself. A sync call past its deadline cannot be stopped: its thread is abandoned and counted, and past
`MAX_ABANDONED` of them sync verifiers are refused.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from ring_async.errors import VerifierError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import BatchVerifier, DeadlineVerifier, GroupVerifier, Response, Verifier

MAX_ABANDONED = 64
DEFAULT_BOUND = 1e6
"""Of a reward's size: one far beyond all others would make a batch of its own."""
_abandoned_threads: set[threading.Thread] = set()

T = TypeVar("T")


async def score_group(
    verifier: Verifier,
    prompt: Prompt,
    responses: Sequence[Response],
    timeout_s: float,
    bound: float = DEFAULT_BOUND,
) -> list[Verdict]:
    """Judge K responses to one prompt, at once where the verifier allows.

    Args:
        verifier: from `make_verifier`.
        prompt: what was asked, with the verifier's metadata.
        responses: `[K]`.
        timeout_s: longest time for one verdict; a batch verifier has K times as long for its one call.
        bound: largest size of a reward (`reward.bound`).

    Returns:
        `[K]` verdicts in the order of the responses, each with a finite reward within the bound and its seconds.

    Raises:
        VerifierError: at least one response could not be judged; the cause is the first one's. The other calls are
            cancelled.
    """
    if isinstance(verifier, GroupVerifier):
        with _typed_failures(verifier, timeout_s):
            judged = await verifier.score_group_within(prompt, responses, timeout_s)
        return _checked_all(verifier, judged, len(responses), 0.0, bound)
    if isinstance(verifier, BatchVerifier):
        return await _score_batch(verifier, prompt, responses, timeout_s, bound)
    tasks = [asyncio.ensure_future(score_one(verifier, prompt, response, timeout_s, bound)) for response in responses]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


OF_ONE_RESPONSE = frozenset({"crash", "bad_verdict", "non_finite", "out_of_bounds", "memory"})
"""Causes that a single response can have. The others (`timeout`, `stalled`, …) are the machine's, and pass."""


async def judge_group(
    verifier: Verifier,
    prompt: Prompt,
    responses: Sequence[Response],
    timeout_s: float,
    bound: float = DEFAULT_BOUND,
) -> list[Verdict | VerifierError]:
    """Judge K responses as `score_group` does, and tell a response that the verifier fails on from the others.

    Only a verifier that is asked for one response at a time can tell them apart.

    Returns:
        `[K]` verdicts, and in place of a verdict the failure that is this response's own. One at least is a verdict.

    Raises:
        VerifierError: no response could be judged, or the failure is not one response's.
    """
    if isinstance(verifier, GroupVerifier | BatchVerifier):
        return list(await score_group(verifier, prompt, responses, timeout_s, bound))
    judged = await asyncio.gather(
        *(score_one(verifier, prompt, response, timeout_s, bound) for response in responses), return_exceptions=True
    )
    outcomes: list[Verdict | VerifierError] = []
    for outcome in judged:
        if isinstance(outcome, BaseException) and not (
            isinstance(outcome, VerifierError) and outcome.cause in OF_ONE_RESPONSE
        ):
            raise outcome
        outcomes.append(outcome)
    failures = [outcome for outcome in outcomes if isinstance(outcome, VerifierError)]
    if failures and len(failures) == len(outcomes):
        raise failures[0]
    return outcomes


async def score_one(
    verifier: Verifier, prompt: Prompt, response: Response, timeout_s: float, bound: float = DEFAULT_BOUND
) -> Verdict:
    """Judge one response.

    Raises:
        VerifierError: `timeout`, `crash`, `non_finite`, `out_of_bounds`, `bad_verdict`, or the verifier's own cause.
    """
    started = time.perf_counter()
    with _typed_failures(verifier, timeout_s):
        if isinstance(verifier, DeadlineVerifier):
            verdict = await verifier.score_within(prompt, response, timeout_s)
        else:
            verdict = await _call(verifier.score, (prompt, response), timeout_s)
    return _checked(verifier, verdict, time.perf_counter() - started, bound)


def num_abandoned_threads() -> int:
    """Sync calls past their deadline that still run."""
    _abandoned_threads.difference_update([thread for thread in _abandoned_threads if not thread.is_alive()])
    return len(_abandoned_threads)


async def _score_batch(
    verifier: Any, prompt: Prompt, responses: Sequence[Response], timeout_s: float, bound: float
) -> list[Verdict]:
    started = time.perf_counter()
    deadline_s = timeout_s * max(1, len(responses))
    with _typed_failures(verifier, deadline_s):
        verdicts = list(await _call(verifier.score_batch, (prompt, responses), deadline_s))
    seconds = (time.perf_counter() - started) / max(1, len(responses))
    return _checked_all(verifier, verdicts, len(responses), seconds, bound)


def _checked_all(
    verifier: Verifier, verdicts: Sequence[object], count: int, seconds: float, bound: float
) -> list[Verdict]:
    if len(verdicts) != count:
        raise VerifierError("bad_verdict", f"{verifier.name}: {len(verdicts)} verdicts for {count} responses")
    return [_checked(verifier, verdict, seconds, bound) for verdict in verdicts]


class _typed_failures:  # noqa: N801 - a context manager, used like a function
    """Turns whatever a verifier raises into a `VerifierError` with a cause."""

    def __init__(self, verifier: Any, timeout_s: float) -> None:
        self._name = getattr(verifier, "name", "") or type(verifier).__name__
        self._timeout_s = timeout_s

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, VerifierError) or not isinstance(error, Exception | SystemExit):
            return
        if isinstance(error, TimeoutError):
            raise VerifierError("timeout", f"{self._name}: no verdict within {self._timeout_s:g} s") from error
        raise VerifierError("crash", f"{self._name}: {type(error).__name__}: {error}") from error


def _checked(verifier: Verifier, verdict: object, seconds: float, bound: float) -> Verdict:
    if not isinstance(verdict, Verdict):
        raise VerifierError("bad_verdict", f"{verifier.name}: returned {type(verdict).__name__}, not a Verdict")
    try:
        reward = float(verdict.reward)
        parts = {str(name): float(value) for name, value in verdict.parts.items()}
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise VerifierError("bad_verdict", f"{verifier.name}: {error}") from error
    if not math.isfinite(reward) or not all(math.isfinite(value) for value in parts.values()):
        raise VerifierError("non_finite", f"{verifier.name}: reward {reward}, parts {parts}")
    if abs(reward) > bound:
        raise VerifierError("out_of_bounds", f"{verifier.name}: reward {reward:g} is beyond ±{bound:g} (reward.bound)")
    return dataclasses.replace(verdict, reward=reward, parts=parts, seconds=verdict.seconds or seconds)


async def _call(function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float) -> Any:
    async with asyncio.timeout(timeout_s):
        if inspect.iscoroutinefunction(function):
            return await function(*arguments)
        outcome = await run_in_thread(function, arguments)
        return await outcome if isinstance(outcome, Awaitable) else outcome


async def run_in_thread(function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    """Run a sync call in a thread of its own: a pool's thread that never returns would starve the pool.

    Raises:
        VerifierError: `stalled`, too many earlier calls never returned.
    """
    if num_abandoned_threads() >= MAX_ABANDONED:
        names = ", ".join(sorted({thread.name for thread in _abandoned_threads}))
        raise VerifierError("stalled", f"{MAX_ABANDONED} earlier calls never returned ({names})")
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(setter: str, value: Any) -> None:
        if not future.done():
            getattr(future, setter)(value)

    def work() -> None:
        try:
            outcome = ("set_result", function(*arguments))
        except BaseException as error:
            outcome = ("set_exception", _settleable(error))  # type: ignore[assignment]
        try:
            loop.call_soon_threadsafe(settle, *outcome)
        except RuntimeError:  # the loop ended while an abandoned call still ran
            pass

    thread = threading.Thread(target=work, name=f"verifier-{getattr(function, '__qualname__', '?')}", daemon=True)
    thread.start()
    try:
        return await future
    except asyncio.CancelledError:
        if thread.is_alive():
            _abandoned_threads.add(thread)
        raise


def _settleable(error: BaseException) -> Exception:
    """An exception that a future takes, and that ends neither the loop nor the actor."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    crash = VerifierError("crash", f"{type(error).__name__}: {error}")
    crash.__cause__ = error
    return crash
