"""Reading and checking the manifest that an announcement carries."""

from __future__ import annotations

from typing import Any

from ring_async.core.weights.plan import Manifest
from ring_async.errors import WeightsError
from ring_async.transport.messages.versions import WeightsAnnouncement


def read_manifest(announcement: WeightsAnnouncement, channel: str) -> Manifest:
    """The checked manifest of an announcement.

    Raises:
        WeightsError: it is malformed, or another channel's.
    """
    if announcement.channel != channel:
        raise WeightsError(
            f"version {announcement.policy_version} was published over {announcement.channel}, this receiver speaks "
            f"{channel}; set the same weights.channel everywhere"
        )
    try:
        return Manifest.from_plain(announcement.manifest)
    except ValueError as error:
        raise WeightsError(f"version {announcement.policy_version}: {error}") from error


def source_field(manifest: Manifest, name: str, kind: type) -> Any:
    """One entry of `manifest.source`, of the expected type.

    Raises:
        WeightsError: it is missing or of another type.
    """
    value = manifest.source.get(name)
    if not isinstance(value, kind):
        raise WeightsError(f"malformed manifest: source.{name} is {value!r}, expected {kind.__name__}")
    return value
