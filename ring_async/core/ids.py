"""The ids of groups and trajectories, and how to read them.

    math-00000017      the group that source `math` issued under cursor 17
    math-00000017/3    its fourth trajectory

Owns: the form of these names. Does not own the names of actors (`core.roster`).
"""

from __future__ import annotations

from ring_async.errors import RunError


class IdError(RunError):
    """An id has the wrong form; the message shows it."""


def group_id_for(source: str, index: int) -> str:
    """The id of the group that a source issues under this cursor."""
    return f"{source}-{index:08d}"


def index_of(group_id: str) -> int:
    """The cursor under which a group was issued."""
    return int(group_id.rpartition("-")[2])


def split_group_id(group_id: str) -> tuple[str, int] | None:
    """`(source, index)` of a group id; None for an id that `group_id_for` has not made."""
    source, dash, index = group_id.rpartition("-")
    return (source, int(index)) if dash and index.isascii() and index.isdecimal() else None


def trajectory_id_for(group_id: str, index: int) -> str:
    """The id of a group's trajectory; `index` is from 0 to K − 1."""
    return f"{group_id}/{index}"


def split_id(trajectory_id: str) -> tuple[str, int]:
    """`(group_id, index)` of a trajectory id.

    Raises:
        IdError: the id is not of the form `group/index`.
    """
    group_id, slash, index = trajectory_id.rpartition("/")
    if not slash or not index.isdecimal():
        raise IdError(f"trajectory id {trajectory_id!r} is not of the form group/index")
    return group_id, int(index)
