"""Which groups are shown, and what each token adds to the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ring_async.core.advantages import AdvantageRules
from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.engines.tokenizer import load_tokenizer
from ring_async.models import resolve_model_path
from ring_async.monitoring.samples import Choice, read_samples, token_texts
from ring_async.records.trained_tokens import Fate, TrainedTokens
from ring_async.storage.replay_shard import ReplayShard
from ring_async.storage.replay_store import ReplayStore
from ring_async.storage.run_dir import RunDir
from ring_async.storage.trained_tokens import TrainedTokensFile
from ring_async.testing.builders import make_group


class Letters:
    """A tokenizer of letters; ids from 200 on are the two halves of one character."""

    def decode(self, ids: list[int], **_: object) -> str:
        raw = b"".join(bytes([0xC3]) if one == 200 else bytes([0xA9]) if one == 201 else bytes([one]) for one in ids)
        return raw.decode("utf-8", errors="replace")


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path)
    run_dir.create()
    shard = ReplayShard(ReplayStore(run_dir.replay / "replay-0", 16 << 20), BufferRules(64, 64), AdvantageRules())
    shard.put([make_group("old", rewards=[1, 0], versions=1, lengths=4, source="sums")])
    shard.put([make_group("new", rewards=[1, 1, 1, 0], versions=[(3, 4), (3, 5)], lengths=6, source="letters")])
    shard.close()
    return run_dir


def ids(run_dir: RunDir, **bounds) -> list[str]:
    return [group["group_id"] for group in read_samples(run_dir, Choice(num=9, **bounds), Letters())]


def test_the_newest_come_first(run_dir: RunDir):
    assert ids(run_dir) == ["new", "old"]
    assert [group["group_id"] for group in read_samples(run_dir, Choice(num=1), Letters())] == ["new"]


def test_each_bound_is_kept(run_dir: RunDir):
    assert ids(run_dir, source="sums") == ["old"]
    assert ids(run_dir, min_reward=0.6) == ["new"]
    assert ids(run_dir, max_reward=0.5) == ["old"]
    assert ids(run_dir, min_tokens=5) == ["new"]
    assert ids(run_dir, max_tokens=5) == ["old"]
    assert ids(run_dir, policy_version=6, min_staleness=3) == ["old"]
    assert ids(run_dir, policy_version=6, max_staleness=2) == ["new"]
    assert ids(run_dir, min_reward=0.6, source="sums") == []


def test_each_token_has_its_version_logprob_and_mask(run_dir: RunDir):
    [group] = read_samples(run_dir, Choice(num=1, has_tokens=True), Letters())
    one = group["responses"][0]
    assert one["per_token"]["version"] == [4, 4, 4, 5, 5, 5]
    assert one["per_token"]["mask"] == [1] * 6
    assert all(value <= 0 for value in one["per_token"]["logprob"])
    assert len(one["tokens"]) == one["num_tokens"] == 6


def test_half_a_character_adds_nothing_until_it_is_whole():
    assert "".join(token_texts(Letters(), [65, 200, 201, 66])).replace("\ufffd", "") == "AéB"


def test_token_by_token_is_the_whole_text():
    tokenizer = load_tokenizer(resolve_model_path("builtin:tiny"))
    text = "5-6=-1+9=8<answer>8</answer>"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(token_texts(tokenizer, tokens)) == tokenizer.decode(tokens)


def keep(run_dir: RunDir, start: int, ratios: list[float], fates: list[int], trajectory: int = 0) -> None:
    trajectory_id = make_group("new", rewards=[1, 1, 1, 0]).header.trajectories[trajectory].trajectory_id
    one = TrainedTokens(trajectory_id, 7, start, np.array(ratios, "<f4").tobytes(), bytes(fates))
    TrainedTokensFile(run_dir.trained_tokens).append([one])


def test_what_the_learner_kept_of_a_token_lies_at_its_place(run_dir: RunDir):
    keep(run_dir, 1, [0.5, float("nan")], [Fate.MASKED, Fate.NONFINITE])
    keep(run_dir, 4, [2.0], [Fate.CLIPPED])
    [group] = read_samples(run_dir, Choice(num=1, has_tokens=True), Letters())
    first, second, *_ = group["responses"]
    assert first["per_token"]["ratio"] == [None, 0.5, None, None, 2.0, None]
    assert first["fates"] == [None, "masked", "nonfinite", None, "clipped", None]
    assert "ratio" not in second["per_token"]
    assert second["fates"] is None


def test_a_token_that_was_trained_again_shows_the_last_time(run_dir: RunDir):
    keep(run_dir, 0, [0.5] * 6, [Fate.MASKED] * 6)
    keep(run_dir, 0, [1.5] * 3, [Fate.TRAINED] * 3)
    [group] = read_samples(run_dir, Choice(num=1, has_tokens=True), Letters())
    assert group["responses"][0]["per_token"]["ratio"] == [1.5, 1.5, 1.5, 0.5, 0.5, 0.5]


def test_groups_with_ratios_can_be_asked_for(run_dir: RunDir):
    assert ids(run_dir, is_trained=True) == []
    keep(run_dir, 0, [1.0], [Fate.TRAINED])
    assert ids(run_dir, is_trained=True) == ["new"]
