"""Bring data source, folder and boards to a Grafana: as often as one likes, and never over a person's work.

Owns: what is pushed, and how a board that a person edited is told from one of ours. Does not own the calls (`client`),
nor the boards.
Invariants: a second push changes nothing; a board that was edited in Grafana is kept unless `force`.

A pushed board carries the tag `pushed-<digest of its content>`. If the content that is there has another digest than
its tag says, a person has saved it since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ring_async.monitoring.grafana.build import TAG, build
from ring_async.monitoring.grafana.client import Grafana
from ring_async.monitoring.grafana.panels import Board

SOURCE_NAME = "ring-async"
FOLDER_UID = "ring-async"
_DIGEST_TAG = "pushed-"
_GRAFANAS_OWN = ("id", "version", "tags")
"""Fields that Grafana sets, or that carry the digest itself."""


class Outcome(StrEnum):
    """What a push did with one board."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    KEPT = "kept: edited in Grafana"


@dataclass(frozen=True, slots=True)
class Pushed:
    """One board, and what became of it."""

    title: str
    url: str
    outcome: Outcome


def push(
    grafana: Grafana, boards: Iterable[Board], *, folder: str, prometheus_url: str = "", force: bool = False
) -> list[Pushed]:
    """Push data source, folder and boards.

    Args:
        grafana: where to.
        boards: what.
        folder: title of the folder that is made for them.
        prometheus_url: of the data source, as Grafana reaches it; empty: no data source is made, and people choose one
            at the top of the board.
        force: whether boards that a person edited are replaced.

    Raises:
        GrafanaError: Grafana cannot be reached or refused; what was pushed before that stays.
    """
    if prometheus_url:
        _put_source(grafana, prometheus_url)
    if not grafana.has_folder(FOLDER_UID):
        grafana.create_folder(FOLDER_UID, folder)
    return [
        Pushed(board.title, f"{grafana.url}/d/{board.uid}", _put_board(grafana, build(board), force=force))
        for board in boards
    ]


def _put_source(grafana: Grafana, url: str) -> None:
    wanted = {"name": SOURCE_NAME, "type": "prometheus", "access": "proxy", "url": url, "isDefault": False}
    there = grafana.data_source(SOURCE_NAME)
    if there is None:
        grafana.create_data_source(wanted)
    elif there.get("url") != url or there.get("type") != "prometheus":
        grafana.update_data_source(int(there["id"]), wanted)


def _put_board(grafana: Grafana, board: dict[str, Any], *, force: bool) -> Outcome:
    there = grafana.board(board["uid"])
    digest = _digest(board)
    if there is not None:
        if not force and _DIGEST_TAG + _digest(there) not in there.get("tags", ()):
            return Outcome.KEPT
        if _digest(there) == digest:
            return Outcome.UNCHANGED
    board = board | {"tags": [TAG, _DIGEST_TAG + digest], "id": None}
    if there is not None:
        board["version"] = there.get("version", 0)
    grafana.save_board(board, folder_uid=FOLDER_UID, message="ring-async dashboard push", overwrite=force)
    return Outcome.CREATED if there is None else Outcome.UPDATED


def _digest(board: dict[str, Any]) -> str:
    content = {key: value for key, value in board.items() if key not in _GRAFANAS_OWN}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
