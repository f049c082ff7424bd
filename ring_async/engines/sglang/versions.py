"""What differs between SGLang's releases, in one table; everything else in this package is the same for all of them.

Owns: which releases are supported, and the steps a weight update takes in each. The facts were read from the published
wheels; `tests/integration/test_sglang_requests.py` checks every request against two of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ring_async.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Release:
    """How to speak to the servers from release `since` on.

    Attributes:
        since: first release this row holds for.
        has_update_sessions: weights are refused (400) outside `/begin_weight_update` … `/end_weight_update`.
    """

    since: tuple[int, int, int]
    has_update_sessions: bool


RELEASES = (
    Release(since=(0, 5, 17), has_update_sessions=False),
    Release(since=(0, 5, 21), has_update_sessions=True),
)


def release_of(version: str) -> Release:
    """The row for a server that calls itself `version`; one newer than any row is spoken to like the newest.

    Raises:
        ConfigError: older than the oldest row, or no version at all.
    """
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if match is None:
        raise ConfigError(f"rollout.engine: the SGLang server calls its version {version!r}, which is none")
    major, minor, patch = (int(part) for part in match.groups())
    rows = [release for release in RELEASES if release.since <= (major, minor, patch)]
    if not rows:
        oldest = ".".join(map(str, RELEASES[0].since))
        raise ConfigError(f"rollout.engine: SGLang {version} is too old; install {oldest} or later")
    return rows[-1]
