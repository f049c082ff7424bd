"""A source tried out before a run: does it make prompts, can its verifier judge them, can the model read them?

Owns: what `check` and `up` find out about a source's prompts, and their sentences. Does not own the sources, nor what
becomes of an odd prompt while a run goes on (`actors.controller`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, TypeVar

from ring_async.clock import monotonic_s
from ring_async.config.schema import Config, SourceSection
from ring_async.data.base import PromptSource
from ring_async.data.prompt_room import PromptRoom
from ring_async.data.registry import make_source
from ring_async.engines.tokenizer import encode_prompt
from ring_async.errors import ConfigError, PromptRefusedError, VerifierError
from ring_async.models import resolve_model_path
from ring_async.types import Prompt
from ring_async.verifiers.base import PromptChecker, Verifier

T = TypeVar("T")

FIRST_PROMPT_S = 20.0
"""How long a source may take for its first prompt; the slowest of reasoning-gym's tasks takes two seconds."""
NUM_TRIED = 64
"""Prompts of an endless source that are tried."""
MAX_TRIED_S = 5.0
TEMPLATE_BYTES = 512
"""What a chat template is taken to add to a question at most. A prompt this near to the limit is counted exactly."""


def try_source(name: str, section: SourceSection, *, deadline_s: float = FIRST_PROMPT_S) -> PromptSource:
    """Make a source and its first prompt, within a deadline. Files have none: reading them ends, however many rows
    they have and however busy the machine is.

    Raises:
        ConfigError: the source cannot be made, or makes no prompt, or takes too long.
    """

    def attempt() -> PromptSource:
        source = make_source(name, section)
        source.prompt(0)
        return source

    try:
        return attempt() if section.kind == "jsonl" else _within(deadline_s, attempt)
    except ConfigError:
        raise
    except TimeoutError:
        raise ConfigError(
            f"sources.{name}: no prompt within {deadline_s:g} s; choose other settings in sources.{name}.options, or "
            "another task"
        ) from None
    except Exception as error:  # a source's library complains about a setting with errors of its own
        raise ConfigError(
            f"sources.{name}: cannot make a prompt: {type(error).__name__}: {error}; check sources.{name}.options"
        ) from error


def tried_prompts(source: PromptSource) -> Iterator[Prompt]:
    """The prompts that are tried: all of a file, the held-out ones too, or the first of an endless source; for at most
    `MAX_TRIED_S`.
    """
    until_s = monotonic_s() + MAX_TRIED_S
    train = map(source.prompt, range(source.num_prompts or NUM_TRIED))
    held_out = map(source.held_out, range(getattr(source, "num_held_out", 0)))
    for prompt in chain(train, held_out):
        yield prompt
        if monotonic_s() > until_s:
            return


def check_judgeable(source: PromptSource, verifier: Verifier) -> None:
    """Refuse a source with a prompt that carries too little for its verifier.

    Raises:
        ConfigError: names the first such prompt.
    """
    if not isinstance(verifier, PromptChecker):
        return
    for prompt in tried_prompts(source):
        try:
            verifier.check_prompt(prompt)
        except VerifierError as error:
            raise ConfigError(
                f"sources.{source.name}: verifiers.{verifier.name} can judge no response to a prompt: {error}; mend or "
                f"remove such rows, or name the right column, e.g. sources.{source.name}.columns.answer=target"
            ) from error


def check_readable(source: PromptSource, config: Config, load: Callable[[], Any]) -> str:
    """Refuse a source with prompts that the model's chat template refuses, or with none that is short enough.

    Args:
        source: it makes prompts.
        config: of the run.
        load: loads the model's tokenizer, which takes seconds: it is called only for chats and long prompts.

    Returns:
        A warning, with their number, about prompts that are too long; else an empty string.

    Raises:
        ConfigError: names the prompt that is refused, or the longest one.
    """
    room = PromptRoom(resolve_model_path(config.model.path), config.rollout.max_tokens)
    num_tried = num_long = longest = 0
    for prompt in tried_prompts(source):
        num_tried += 1
        if not prompt.messages and not room.may_exceed(prompt, num_added=TEMPLATE_BYTES):
            continue
        try:
            num_tokens = len(encode_prompt(load(), prompt, config.model.chat_template_options))
        except PromptRefusedError as refusal:
            raise ConfigError(f"sources.{source.name}: {refusal}") from refusal
        longest = max(longest, num_tokens)
        num_long += room.num_tokens is not None and num_tokens > room.num_tokens
    if not num_long:
        return ""
    words = (
        f"sources.{source.name}: {num_long} of {num_tried} prompts are too long for the model: the longest has "
        f"{longest} tokens, and its {room.num_positions} positions less rollout.max_tokens "
        f"{config.rollout.max_tokens} leave {room.num_tokens}"
    )
    if num_long == num_tried:
        raise ConfigError(f"{words}; shorten the prompts, lower rollout.max_tokens or take another model")
    return f"{words}; they are passed over"


def _within(deadline_s: float, attempt: Callable[[], T]) -> T:
    """The result of a call, which runs in a thread that nobody waits for once the time is over.

    Raises:
        TimeoutError: it took longer.
    """
    outcome: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((True, attempt()))
        except Exception as error:  # handed to the caller
            outcome.put((False, error))

    threading.Thread(target=run, name="first prompt", daemon=True).start()
    try:
        is_done, result = outcome.get(timeout=deadline_s)
    except queue.Empty:
        raise TimeoutError from None
    if not is_done:
        raise result
    return result  # type: ignore[no-any-return]
