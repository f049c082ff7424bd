"""Where prompts come from.

A source is a numbered, endless list: prompt `index` is always the same prompt, in every process and after every resume.
The controller keeps a cursor per source, and nothing else.
"""

from __future__ import annotations

from typing import Protocol

from ring_async.types import Prompt


class PromptSource(Protocol):
    name: str

    @property
    def num_prompts(self) -> int | None:
        """The number of distinct training prompts, after which they come again; None: the source never repeats."""
        ...

    def prompt(self, index: int) -> Prompt:
        """The prompt at `index` ≥ 0; deterministic. Training and held-out prompts never coincide."""
        ...

    def held_out(self, index: int) -> Prompt:
        """A prompt of the held-out split, for evaluation."""
        ...
