"""Fair shares among rollouts."""

from hypothesis import given
from hypothesis import strategies as st

from ring_async.core.work.fair_shares import divide, fair_share


def test_a_fair_share_is_an_equal_part_of_what_is_under_way_and_to_come():
    assert fair_share(num_open=0, num_grantable=8, num_rollouts=4) == 2
    assert fair_share(num_open=3, num_grantable=2, num_rollouts=4) == 2  # 5 / 4, rounded up: nothing is left over
    assert fair_share(num_open=3, num_grantable=2, num_rollouts=0) == 5


def test_the_one_with_fewer_groups_is_given_the_next():
    assert divide(4, {"a": 9, "b": 9, "c": 1}, {"a": 2, "b": 0, "c": 0}) == ["b", "c", "b", "a"]


def test_what_nobody_wants_is_not_given():
    assert divide(9, {"a": 1, "b": 0, "c": -2}, {"a": 0, "b": 0, "c": 3}) == ["a"]


@given(
    st.lists(st.tuples(st.integers(-2, 9), st.integers(0, 9)), max_size=8),
    st.integers(0, 40),
)
def test_nobody_who_wants_more_has_two_fewer_than_one_who_was_given_some(rollouts, num_groups):
    wanted = {f"rollout-{i}": number for i, (number, _) in enumerate(rollouts)}
    held = {f"rollout-{i}": number for i, (_, number) in enumerate(rollouts)}
    given_to = divide(num_groups, wanted, held)
    assert len(given_to) == min(num_groups, sum(max(0, number) for number in wanted.values()))
    got = {owner: given_to.count(owner) for owner in wanted}
    assert all(got[owner] <= max(0, wanted[owner]) for owner in wanted)
    for poor, number in wanted.items():
        for rich in wanted:
            if got[poor] < number and got[rich]:
                assert held[rich] + got[rich] <= held[poor] + got[poor] + 1
