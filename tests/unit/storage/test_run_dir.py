"""A run's folder: its owner's alone, and without a trace of its place in what is stored."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ring_async.storage.run_dir import IN_RUN, RunDir

plain = st.recursive(
    st.none() | st.integers() | st.text().filter(lambda text: not text.startswith(IN_RUN)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_only_the_owner_may_look_into_a_run(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "runs" / "mine")
    run_dir.create()
    assert run_dir.path.stat().st_mode & 0o777 == 0o700
    run_dir.path.chmod(0o755)
    RunDir(run_dir.path).create()
    assert run_dir.path.stat().st_mode & 0o777 == 0o700


def test_paths_inside_the_run_are_stored_without_its_place() -> None:
    here, there = RunDir(Path("/runs/mine")), RunDir(Path("/else/mine"))
    value = {"path": "/runs/mine/checkpoints/0.3", "use": ["/runs/mine/verifiers/ab/f.py:Exact", "/data/f.py:Exact"]}
    stored = here.relative(value)
    assert stored == {"path": "<run>/checkpoints/0.3", "use": ["<run>/verifiers/ab/f.py:Exact", "/data/f.py:Exact"]}
    assert there.absolute(stored)["path"] == "/else/mine/checkpoints/0.3"


def test_a_run_named_by_a_relative_path_recognises_absolute_ones(tmp_path: Path) -> None:
    run_dir = RunDir(Path("runs/mine"))
    assert run_dir.relative(str(Path("runs/mine/checkpoints/0.3").absolute())) == "<run>/checkpoints/0.3"
    assert run_dir.absolute("<run>/checkpoints/0.3") == "runs/mine/checkpoints/0.3"


@given(value=plain)
def test_what_is_no_path_of_the_run_comes_back_as_it_was(value: object) -> None:
    run_dir = RunDir(Path("/runs/mine"))
    assert run_dir.absolute(run_dir.relative(value)) == value
