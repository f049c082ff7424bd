"""Prompts with verifiable instructions: endless, numbered, one to three of IFEval's 25 kinds each.

Owns: combining a request with instructions that do not contradict each other. Does not own: the kinds
(`verifiers.rules.instructions`), or scoring.

Held-out prompts ask about topics that training prompts never mention, so the splits are disjoint by construction. A
configured topic belongs to one of the splits by a hash of its text.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b

from ring_async.data.split import is_held_out
from ring_async.errors import ConfigError
from ring_async.types import Prompt
from ring_async.verifiers.rules.instructions.kind import Kind
from ring_async.verifiers.rules.instructions.kinds import IFEVAL_KINDS, KINDS

_REQUESTS = (
    "Write a short note about {topic}.",
    "Explain {topic} to a child.",
    "Write a few lines of praise for {topic}.",
    "Describe {topic} for a travel guide.",
    "Give advice to someone who worries about {topic}.",
    "Write an email to a friend about {topic}.",
    "Summarize what everyone should know about {topic}.",
    "Write a small poem about {topic}.",
)
_TOPICS = (
    *("the sea", "an old clock", "learning to cook", "a lost umbrella", "the first snow", "a noisy neighbor"),
    *("growing tomatoes", "a train journey", "night skies", "a broken bicycle", "bees", "a birthday without cake"),
    *("moving to a new town", "a good night's sleep", "chess", "the price of bread", "a shy cat", "volcanoes"),
    *("keeping a diary", "the color blue", "an empty theater", "rain on a tin roof", "a school reunion", "maps"),
)
_HELD_OUT_TOPICS = (
    *("a lighthouse", "mending a coat", "a choir", "wild mushrooms", "a long queue", "the smell of books"),
    *("a leaking boat", "sunrise in the desert"),
)

_REPEATING_KINDS = frozenset({"combination:repeat_prompt", "repeat:repeat_change", "repeat:repeat_span"})


class InstructionSource:
    """Requests with instructions.

    Args:
        name: of the source.
        kinds: identifiers to draw from; None: IFEval's 25.
        max_instructions: most instructions in one prompt, 1 to 3.
        requests: templates of requests, each with `{topic}` in it; None: general writing.
        topics: topics to ask about; None: everyday ones.

    Raises:
        ConfigError: a kind is unknown, a number is out of range, a request has no `{topic}`, or topics are too few.
    """

    def __init__(
        self,
        name: str,
        kinds: Sequence[str] | None = None,
        max_instructions: int = 3,
        requests: Sequence[str] | None = None,
        topics: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        unknown = sorted(set(kinds or ()) - set(KINDS))
        if unknown:
            raise ConfigError(f"sources.{name}.options.kinds: no kind is called {unknown[0]!r}; {', '.join(KINDS)}")
        if not 1 <= max_instructions <= 3:
            raise ConfigError(f"sources.{name}.options.max_instructions: {max_instructions} must be 1, 2 or 3")
        self._kinds = [KINDS[identifier] for identifier in (kinds or IFEVAL_KINDS)]
        self._max_instructions = max_instructions
        self._requests = tuple(requests or _REQUESTS)
        for request in self._requests:
            if "{topic}" not in request:
                raise ConfigError(f"sources.{name}.options.requests: {request!r} has no {{topic}} in it")
        self._topics = tuple(topic for topic in topics if not is_held_out(topic)) if topics else _TOPICS
        self._held_out_topics = tuple(filter(is_held_out, topics)) if topics else _HELD_OUT_TOPICS
        if not self._topics or not self._held_out_topics:
            raise ConfigError(
                f"sources.{name}.options.topics: {len(topics or ())} are too few to set some aside for evaluation"
            )

    @property
    def num_prompts(self) -> None:
        return None

    def prompt(self, index: int) -> Prompt:
        return self._make("train", index, self._topics)

    def held_out(self, index: int) -> Prompt:
        return self._make("held-out", index, self._held_out_topics)

    def _make(self, split: str, index: int, topics: Sequence[str]) -> Prompt:
        digest = blake2b(f"{split}/{index}".encode(), digest_size=8).digest()
        rng = random.Random(int.from_bytes(digest, "big"))
        request = rng.choice(self._requests).replace("{topic}", rng.choice(topics))
        first = self._kinds[index % len(self._kinds)]
        chosen = self._compatible(first, rng)
        instructions = []
        sentences = [request]
        for kind in chosen:
            arguments = kind.draw(rng)
            if kind.identifier in _REPEATING_KINDS:
                arguments["prompt_to_repeat"] = request
            instructions.append({"id": kind.identifier, "kwargs": arguments})
            sentences.append(kind.word(arguments))
        return Prompt(f"{self.name}/{split}/{index}", self.name, " ".join(sentences), {"instructions": instructions})

    def _compatible(self, first: Kind, rng: random.Random) -> list[Kind]:
        """The first kind, and further kinds that concern other aspects of a response."""
        wanted = rng.randint(1, self._max_instructions)
        chosen, claimed = [first], set(first.claims)
        for kind in rng.sample(self._kinds, len(self._kinds)):
            if len(chosen) == wanted:
                break
            if not claimed & kind.claims:
                chosen.append(kind)
                claimed |= kind.claims
        return chosen
