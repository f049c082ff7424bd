"""Sources are chosen so that completed tokens, not issued prompts, follow the weights."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_async.core.work.mixture import Mixture, check_weights


def run_groups(mixture: Mixture, tokens: dict[str, int], num_groups: int, *, window: int = 8) -> dict[str, int]:
    """Groups under way in a window; the shortest finishes first, as in an asynchronous fleet."""
    under_way: list[str] = []
    completed = dict.fromkeys(tokens, 0)
    for _ in range(num_groups):
        while len(under_way) < window:
            under_way.append(mixture.choose())
        source = min(under_way, key=lambda name: tokens[name])
        under_way.remove(source)
        mixture.completed(source, tokens[source])
        completed[source] += tokens[source]
    for source in under_way:  # the shortest-first fleet holds long ones back; let them finish
        completed[source] += tokens[source]
    return completed


def test_completed_tokens_follow_the_weights_though_one_source_is_ten_times_longer():
    completed = run_groups(Mixture({"short": 1, "long": 1}), {"short": 100, "long": 1000}, 3000)
    share = completed["long"] / sum(completed.values())
    assert share == pytest.approx(0.5, abs=0.02)


@settings(deadline=None)
@given(
    weights=st.lists(st.floats(0.1, 10), min_size=2, max_size=4),
    lengths=st.lists(st.integers(10, 500), min_size=4, max_size=4),
)
def test_shares_converge(weights: list[float], lengths: list[int]):
    names = [f"s{index}" for index in range(len(weights))]
    mixture = Mixture(dict(zip(names, weights, strict=True)))
    completed = run_groups(mixture, dict(zip(names, lengths, strict=False)), 1200)
    total = sum(completed.values())
    unknown = 8 * max(lengths) / total  # the first window is chosen before any length is known
    for name, weight in zip(names, weights, strict=True):
        assert completed[name] / total == pytest.approx(weight / sum(weights), abs=0.03 + unknown)


def test_a_weight_of_zero_is_never_chosen():
    mixture = Mixture({"a": 1, "b": 0})
    assert {mixture.choose() for _ in range(20)} == {"a"}


def test_a_change_of_weights_does_not_pay_back_the_past():
    mixture = Mixture({"a": 1, "b": 0})
    for _ in range(100):
        mixture.completed(mixture.choose(), 50)
    mixture.set_weights({"a": 1, "b": 1}, epoch=1)
    chosen = []
    for _ in range(40):
        chosen.append(mixture.choose())
        mixture.completed(chosen[-1], 50)
    assert 18 <= chosen.count("b") <= 22


def test_failed_groups_leave_no_debt():
    mixture = Mixture({"a": 1, "b": 1})
    for _ in range(50):
        source = mixture.choose()
        mixture.completed(source, 0 if source == "a" else 10)
    assert mixture.choose() == "a"


def test_a_snapshot_restores_the_account():
    mixture = Mixture({"a": 1, "b": 3})
    run_groups(mixture, {"a": 10, "b": 10}, 50, window=1)
    again = Mixture({"a": 1, "b": 3})
    again.restore(mixture.snapshot())
    twin = Mixture({"a": 1, "b": 3})
    twin.restore(mixture.snapshot())
    assert [again.choose() for _ in range(10)] == [twin.choose() for _ in range(10)]
    assert again.snapshot()["completed"] == mixture.snapshot()["completed"]


@pytest.mark.parametrize("weights", [{"a": 0.0}, {"a": -1.0, "b": 2.0}])
def test_impossible_weights_are_refused(weights: dict[str, float]):
    with pytest.raises(ValueError, match="weights"):
        Mixture(weights)


def complete(mixture: Mixture, num_groups: int, num_tokens: int = 8_000) -> list[str | None]:
    chosen = [mixture.choose() for _ in range(num_groups)]
    for source in chosen:
        mixture.completed(source, num_tokens)
    return chosen


def test_a_source_that_was_paused_is_not_paid_back():
    mixture = Mixture({"math": 1, "code": 1})
    for _ in range(10):
        complete(mixture, 20)
    mixture.pause(["code"])
    for _ in range(250):
        complete(mixture, 20)
    mixture.resume(["code"])
    shares = [complete(mixture, 20).count("code") for _ in range(5)]
    assert all(abs(share - 10) <= 1 for share in shares), shares


def test_a_source_whose_window_was_empty_is_not_paid_back():
    mixture = Mixture({"math": 0.5, "code": 0.5})
    for _ in range(3_000):
        mixture.completed(mixture.choose(lambda source: source == "math"), 8_000)
    following = [complete(mixture, 1)[0] for _ in range(20)]
    assert following.count("code") == 10


def test_groups_under_way_before_a_restart_count_after_it():
    mixture = Mixture({"math": 1, "code": 1})
    mixture.restore(Mixture({"math": 1, "code": 1}).snapshot())
    for _ in range(4):
        mixture.resumed("math")
    assert [mixture.choose() for _ in range(4)] == ["code"] * 4


@pytest.mark.parametrize("weights", [{"a": 1e308, "b": 1e308}, {"a": 10**30}, {"a": 1e-300, "b": 1}, {"a": -1, "b": 1}])
def test_weights_that_no_sum_can_hold_are_refused(weights: dict[str, float]):
    with pytest.raises(ValueError, match="only their ratios count"):
        check_weights(weights)
