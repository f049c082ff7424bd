"""From configuration to prompt source.

Owns: which class a `kind` means. Sources are imported when one is made: some take seconds.
"""

from __future__ import annotations

from ring_async.config.schema import SourceSection
from ring_async.data.base import PromptSource
from ring_async.errors import ConfigError


def make_source(name: str, section: SourceSection) -> PromptSource:
    """Build the source that `sources.<name>` describes.

    Raises:
        ConfigError: the source cannot be made; the message names the key and the remedy.
    """
    match section.kind:
        case "reasoning_gym":
            from ring_async.data.reasoning_gym import ReasoningGymSource

            return ReasoningGymSource(name, section.task, section.options)
        case "jsonl":
            from ring_async.data.jsonl import FileSource

            return FileSource(name, section.path, section.columns, section.held_out_path)
        case "instruction":
            from ring_async.data.instruction import InstructionSource

            try:
                return InstructionSource(name, **section.options)
            except TypeError as error:
                raise ConfigError(f"sources.{name}.options: {error}") from error
