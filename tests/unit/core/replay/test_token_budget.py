"""The choice of exactly Φ loss tokens."""

from hypothesis import given
from hypothesis import strategies as st

from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.candidates import Candidates
from ring_async.core.replay.held_groups import HeldGroups
from ring_async.core.replay.progress import Progress, make_record
from ring_async.core.replay.token_budget import Candidate, Choice, Shortfall, choose_tokens, largest_sum
from ring_async.core.staleness import Lineage
from ring_async.testing.builders import make_group


def candidate(num_loss_tokens=4, index=0, **fields):
    """A trajectory for `choose` and `order`: what is asked of it there, and how it is to stand in order."""
    defaults = {
        "source": "sums", "can_split": True, "is_remainder": False, "num_uses": 0, "oldest_number": 0,
        "arrival": index, "abs_advantage": 1.0,
    }  # fmt: skip
    return {"index": index, "num_loss_tokens": num_loss_tokens, **defaults, **fields}


def several(*lengths, rigid=()):
    return [candidate(n, i, can_split=i not in rigid) for i, n in enumerate(lengths)]


class Listed:
    """What a batch may take, as a list in the order of choice."""

    def __init__(self, candidates):
        self.listed = [
            Candidate(None, one["index"], one["source"], one["num_loss_tokens"], one["can_split"], one["is_remainder"])
            for one in candidates
        ]
        self.num, self.num_rigid = len(self.listed), sum(not one.can_split for one in self.listed)
        self.tokens = sum(one.num_loss_tokens for one in self.listed)

    def in_order(self):
        return iter(self.listed)

    def splittable(self):
        return (one for one in self.listed if one.can_split)

    def rigid(self):
        return (one for one in self.listed if not one.can_split)


def choose(candidates, token_budget, **options):
    """The choice among candidates in the order of choice, by their indices."""
    choice = choose_tokens(Listed(candidates), token_budget, **options)
    if isinstance(choice, Shortfall):
        return choice
    return Choice(tuple((one.index, num_tokens) for one, num_tokens in choice.taken))


def test_the_response_that_crosses_the_line_is_cut():
    assert choose(several(5, 5, 5), 12) == Choice(((0, 5), (1, 5), (2, 2)))


def test_an_exact_fit_cuts_nothing():
    assert choose(several(5, 7, 3), 12) == Choice(((0, 5), (1, 7)))


def test_too_few_tokens_say_how_many():
    assert choose(several(1_000, 2_120), 8_192) == Shortfall("3,120 of 8,192 eligible tokens")


def test_a_final_batch_takes_what_there_is():
    assert choose(several(3, 4), 100, is_final=True) == Choice(((0, 3), (1, 4)))
    assert choose(several(), 100, is_final=True) == Shortfall("0 of 100 eligible tokens")


def test_what_may_not_be_cut_is_passed_over():
    assert choose(several(8, 8, 8, rigid=(1,)), 12) == Choice(((0, 8), (2, 4)))


def test_what_may_not_be_cut_goes_first_when_nothing_else_fills():
    # in order: 6 whole, then 7 does not fit and may not be cut; around 7, the 6 can be cut
    assert choose(several(6, 7, rigid=(1,)), 10) == Choice(((1, 7), (0, 3)))


def test_whole_responses_that_add_up_are_found():
    # in order 9 + 6 leaves 5, and nothing of 5 may be cut; 9 + 7 + 4 is exact
    assert choose(several(9, 6, 7, 4, rigid=range(4)), 20) == Choice(((0, 9), (2, 7), (3, 4)))


def test_a_budget_that_whole_responses_fill_takes_nothing_of_others():
    assert choose(several(7, 6, 4, 1, rigid=(0, 1, 2)), 10) == Choice(((1, 6), (2, 4)))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=10), st.integers(1, 100))
def test_the_largest_sum_is_the_largest(sizes, limit):
    sums = {0}
    for size in sizes:
        sums |= {total + size for total in sums}
    chosen = largest_sum(sizes, limit)
    assert len(set(chosen)) == len(chosen)
    assert sum(sizes[i] for i in chosen) == max(total for total in sums if total <= limit)


def test_no_sum_of_whole_responses_waits_with_a_reason():
    shortfall = choose(several(6, 6, rigid=(0, 1)), 10)
    assert isinstance(shortfall, Shortfall)
    assert "may not be split" in shortfall.reason


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=30), st.integers(1, 200))
def test_a_choice_is_exact_and_cuts_at_most_one(lengths, token_budget):
    candidates = [candidate(n, i, can_split=can_split) for i, (n, can_split) in enumerate(lengths)]
    choice = choose(candidates, token_budget)
    if isinstance(choice, Shortfall):
        return
    assert sum(n for _, n in choice.taken) == token_budget
    assert len({i for i, _ in choice.taken}) == len(choice.taken)
    cut = [i for i, n in choice.taken if n < candidates[i]["num_loss_tokens"]]
    assert len(cut) <= 1
    assert all(candidates[i]["can_split"] for i in cut)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 200))
def test_if_all_may_be_cut_enough_tokens_always_make_a_batch(lengths, token_budget):
    choice = choose(several(*lengths), token_budget)
    assert isinstance(choice, Choice) == (sum(lengths) >= token_budget)


def order(candidates, kind="oldest_version", salt=0, shares=None):
    """The indices of candidates, each a group of its own, as a buffer would hold them, in the order of choice."""
    rules = BufferRules(1, 64, max_staleness=100, max_reuse=9, order=kind, source_shares=shares)
    held = HeldGroups(rules, Lineage())
    for one in candidates:
        group = make_group(
            f"g{one['index']}", rewards=[1.0], lengths=one["num_loss_tokens"] + one["is_remainder"],
            versions=one["oldest_number"], source=one["source"],
        )  # fmt: skip
        record = make_record(group.header, [one["abs_advantage"]], group.loss_mask, one["arrival"])
        held.put(record, (Progress(num_uses=one["num_uses"], position=int(one["is_remainder"])),))
    ordered = Candidates([held], rules, salt=salt, learner_number=10).in_order()
    return [int(one.group.record.header.group_id[1:]) for one in ordered]


def test_remainders_come_first_then_the_least_used_then_the_oldest():
    candidates = [
        candidate(index=0, oldest_number=5),
        candidate(index=1, oldest_number=2, num_uses=1),
        candidate(index=2, oldest_number=3),
        candidate(index=3, oldest_number=9, is_remainder=True),
    ]
    assert order(candidates) == [3, 2, 0, 1]


def test_orders():
    candidates = [candidate(index=i, arrival=9 - i, abs_advantage=a) for i, a in enumerate([0.5, 2.0, 1.0])]
    assert order(candidates, "fifo") == [2, 1, 0]
    assert order(candidates, "abs_advantage") == [1, 2, 0]


def test_ties_are_random_by_group_and_repeatable():
    candidates = [candidate(index=i) for i in range(50)]
    first = order(candidates, salt=1)
    assert first == order(candidates, salt=1)
    assert first not in (list(range(50)), order(candidates, salt=2))


def test_shares_hold_in_every_prefix():
    candidates = [candidate(10, i, source="a" if i < 40 else "b") for i in range(80)]
    ordered = order(candidates, "fifo", shares={"a": 0.75, "b": 0.25})
    for num in (8, 16, 40):
        of_a = sum(1 for i in ordered[:num] if candidates[i]["source"] == "a")
        assert abs(of_a / num - 0.75) <= 1 / num
    assert sorted(ordered) == list(range(80))


def test_a_source_without_candidates_leaves_its_part_to_others():
    candidates = [candidate(10, i, source="a") for i in range(3)]
    assert order(candidates, "fifo", shares={"a": 0.1, "b": 0.9}) == [0, 1, 2]


def test_a_remainder_that_cannot_wait_is_in_the_next_batch_though_others_add_up_without_it():
    candidates = [candidate(3, 0, can_split=False, is_remainder=True), candidate(8, 1, can_split=False)]
    others = [candidate(2, 2)]
    assert isinstance(choose([*candidates, *others], 10), Shortfall)  # 8 + 2 would give the remainder up
    assert choose([*candidates, *others, candidate(9, 3)], 10) == Choice(((0, 3), (2, 2), (3, 5)))


def test_the_remainder_of_a_small_source_comes_first_under_quotas():
    candidates = [candidate(6, 0, source="a", can_split=False, is_remainder=True)]
    candidates += [candidate(5, i, source="b") for i in (1, 2)] + [candidate(4, 3, source="a")]
    ordered = order(candidates, "fifo", salt=1, shares={"a": 0.3, "b": 0.7})
    assert ordered[0] == 0
    assert choose([candidates[i] for i in ordered], 10) == Choice(((0, 6), (1, 4)))


@given(
    remainder=st.integers(1, 20),
    others=st.lists(st.tuples(st.integers(1, 20), st.booleans()), max_size=12),
    token_budget=st.integers(20, 60),
)
def test_no_batch_leaves_a_remainder_behind(remainder, others, token_budget):
    candidates = [candidate(n, i, can_split=can_split) for i, (n, can_split) in enumerate(others)]
    candidates.append(candidate(remainder, len(others), can_split=False, is_remainder=True))
    ordered = [candidates[i] for i in order(candidates, "fifo", salt=7)]
    choice = choose(ordered, token_budget)
    assert isinstance(choice, Shortfall) or (len(others), remainder) in choice.taken
