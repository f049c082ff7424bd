"""Which questions are held out: decided by a hash of their text, so that no process needs a list."""

from __future__ import annotations

from hashlib import blake2b

from ring_async.types import Prompt

HELD_OUT_SHARE = 1 / 8


def is_held_out(question: str) -> bool:
    """Whether a question is for evaluation alone; the same answer everywhere and always."""
    digest = blake2b(question.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**64


def question_of(prompt: Prompt) -> str:
    """The text by which a prompt is the same question as another: all of a chat but the system's instructions."""
    if not prompt.messages:
        return prompt.text
    return "\n".join(message.content for message in prompt.messages if message.role not in {"system", "developer"})
