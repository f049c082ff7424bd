"""The files that a run's prompts come from, and whether they are still those that the run began with.

Owns: their hashes, and the comparison when a run goes on. Does not own where hashes are kept (`storage.run_dir`).
A prompt is known by its number: with other files, the numbers of a resumed run would mean other prompts.
"""

from __future__ import annotations

from collections.abc import Mapping

from ring_async.config.schema import Config, SourceSection
from ring_async.data.files import data_files, files_digest
from ring_async.errors import ConfigError


def data_digests(config: Config) -> dict[str, str]:
    """A hash of the files of each source of the mixture that has files.

    Raises:
        ConfigError: a file is gone.
    """
    return {
        name: _digest(name, section)
        for name, section in config.sources.items()
        if section.kind == "jsonl" and name in config.mixture
    }


def changed_sources(config: Config, begun_with: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The sources whose files are not those that the run began with, and whose configuration accepts that.

    Args:
        config: with which the run goes on.
        begun_with: `data_digests` of its beginning.
        now: `data_digests` of this configuration.

    Raises:
        ConfigError: files have changed, and the configuration does not accept it.
    """
    changed = [name for name, digest in now.items() if begun_with.get(name, digest) != digest]
    refused = [name for name in changed if config.sources[name].when_changed == "refuse"]
    if refused:
        raise ConfigError(
            "\n".join(
                f"sources.{name}.path: {config.sources[name].path}: not what the run began with; its prompts are known "
                f"by their numbers, which mean others now. Put the old files back, or go on with the new ones: "
                f"sources.{name}.when_changed=accept"
                for name in refused
            )
        )
    return changed


def _digest(name: str, section: SourceSection) -> str:
    files = data_files(f"sources.{name}.path", section.path)
    if section.held_out_path:
        files = files + data_files(f"sources.{name}.held_out_path", section.held_out_path)
    return files_digest(files)
