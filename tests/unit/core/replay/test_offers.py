"""What a shard tells the planner: differences, in portions, and from nothing after a gap."""

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from ring_async.core.replay.buffer_rules import BufferRules
from ring_async.core.replay.held_groups import HeldGroups
from ring_async.core.replay.offers import Mirror, Offer, OfferLog, OfferMark
from ring_async.core.replay.progress import Progress, make_record
from ring_async.core.replay.transitions import OPEN
from ring_async.core.staleness import Lineage
from ring_async.testing.builders import make_group
from ring_async.trajectory_states import TrajectoryStatus
from work_counted import instructions

RULES = BufferRules(8, 64, num_shards=2)
ENDED = Progress(state=TrajectoryStatus.EVICTED, is_open=False)


def record_of(number, version=0):
    group = make_group(f"g{number}", lengths=[4, 4], versions=version)
    return make_record(group.header, [1.0, -1.0], group.loss_mask, number)


class Shard:
    """A shard's groups and their log, as a buffer keeps both."""

    def __init__(self, stream="first"):
        self.held, self.log = HeldGroups(RULES, Lineage()), OfferLog(stream)

    def put(self, number, version=0):
        self.held.put(record_of(number, version), (OPEN, OPEN))
        self.log.note(f"g{number}", is_new=True)

    def move(self, number, progress):
        self.held.move(f"g{number}", progress)
        self.log.note(f"g{number}", is_open=self.held[f"g{number}"].is_open)

    def drop(self, number):
        self.log.note(f"g{number}", is_open=False)
        self.held.drop(f"g{number}")

    def offer(self, mirror, **options):
        return self.log.offer(self.held, mirror.mark, **options)


def hear(shard, mirror, max_bytes=1_000):
    offers = []
    while not offers or offers[-1].has_more:
        offers.append(shard.offer(mirror, max_bytes=max_bytes))
        mirror.take_in(offers[-1])
    return offers


def copied(groups):
    """What is open, as a plan sees it."""
    return {g: (group.record.header.trajectories, group.progress) for g, group in groups.items() if group.is_open}


def test_only_what_changed_is_told_and_a_record_only_once():
    shard, mirror = Shard(), Mirror(RULES, Lineage())
    for number in range(3):
        shard.put(number)
    (first,) = hear(shard, mirror, max_bytes=10_000)
    assert first.is_whole
    assert [one.record.header.group_id for one in first.groups] == ["g0", "g1", "g2"]
    assert first.groups[0].record.header.prompt.text == ""
    assert shard.offer(mirror).groups == ()
    shard.move(1, (Progress(position=2), OPEN))
    shard.move(2, (ENDED, ENDED))
    (second,) = hear(shard, mirror)
    assert [(one.group_id, one.record) for one in second.groups] == [("g1", None), ("g2", None)]
    assert second.groups[1].progress is None
    assert copied(mirror.groups) == copied(shard.held)


def test_a_large_shard_is_told_in_portions_of_bounded_size():
    shard, mirror = Shard(), Mirror(RULES, Lineage())
    for number in range(500):
        shard.put(number)
    offers = hear(shard, mirror)
    assert len(offers) > 100
    assert max(len(msgspec.msgpack.encode(offer)) for offer in offers) < 2_000
    assert [offer.is_whole for offer in offers] == [True] + [False] * (len(offers) - 1)
    assert copied(mirror.groups) == copied(shard.held)


def test_what_changes_between_two_portions_is_not_lost():
    shard, mirror = Shard(), Mirror(RULES, Lineage())
    for number in range(4):
        shard.put(number)
    mirror.take_in(shard.offer(mirror, max_bytes=1_000))  # g0 and g1
    shard.move(0, (ENDED, ENDED))  # told: it must be taken back
    shard.move(3, (Progress(position=1), OPEN))  # not told: its record is still due
    shard.drop(2)  # not told: nothing to say
    hear(shard, mirror)
    assert copied(mirror.groups) == copied(shard.held)
    assert set(copied(mirror.groups)) == {"g1", "g3"}


def test_a_mark_of_another_opening_begins_anew():
    mirror = Mirror(RULES, Lineage())
    before, after = Shard("first"), Shard("second")
    for number in range(5):
        before.put(number)
    after.put(7)
    hear(before, mirror)
    (offer,) = hear(after, mirror)
    assert offer.is_whole
    assert set(copied(mirror.groups)) == {"g7"}


def test_an_answer_that_was_lost_is_given_again():
    shard, mirror = Shard(), Mirror(RULES, Lineage())
    shard.put(1)
    hear(shard, mirror)
    shard.move(1, (ENDED, ENDED))
    assert shard.offer(mirror) == shard.offer(mirror)
    assert not shard.offer(mirror).is_whole


def test_groups_that_ended_are_forgotten_once_the_planner_knows():
    shard, mirror = Shard(), Mirror(RULES, Lineage())
    for number in range(50):
        shard.put(number)
        hear(shard, mirror)
        shard.drop(number)
    hear(shard, mirror)
    shard.offer(mirror)
    assert (len(shard.log._numbers), len(shard.log._order), len(shard.log._gone)) == (0, 0, 0)


def test_a_difference_costs_as_much_in_a_large_shard_as_in_a_small_one():
    costs = []
    for num in (50, 1_500):
        shard, mirror = Shard(), Mirror(RULES, Lineage())
        for number in range(num):
            shard.put(number)
        while (offer := shard.offer(mirror)).groups:
            mirror.take_in(offer)
        shard.put(num + 1)
        shard.move(1, (ENDED, ENDED))
        costs.append(instructions(lambda shard=shard, mirror=mirror: mirror.take_in(shard.offer(mirror))))
    assert costs[1] < 2 * costs[0]


def test_a_record_is_told_again_after_the_planner_s_restart_whatever_a_batch_took_since():
    shard, mirror = Shard(), Mirror(RULES, Lineage())
    for number in range(4):
        shard.put(number)
    hear(shard, mirror)
    shard.move(1, (Progress(position=1), OPEN))
    mirror = Mirror(RULES, Lineage())
    assert all(one.record is not None for offer in hear(shard, mirror) for one in offer.groups)
    assert copied(mirror.groups) == copied(shard.held)


def test_a_record_that_was_lost_on_the_way_is_told_again_with_the_progress_behind_it():
    shard, mirror = Shard(), Mirror(RULES, Lineage())
    shard.put(1)
    hear(shard, mirror)
    shard.put(2)
    shard.offer(mirror)  # lost
    shard.move(2, (Progress(position=1), OPEN))
    hear(shard, mirror)
    assert copied(mirror.groups) == copied(shard.held)


def test_a_group_judged_again_and_ended_before_the_next_offer_is_taken_back():
    shard, mirror = Shard(), Mirror(RULES, Lineage())
    shard.put(1)
    hear(shard, mirror)
    shard.put(1)
    shard.move(1, (ENDED, ENDED))
    hear(shard, mirror)
    assert copied(mirror.groups) == {}


class Told(RuleBasedStateMachine):
    """Groups come, move and go; answers are lost; shard and planner restart: after a hearing, both hold the same."""

    def __init__(self):
        super().__init__()
        self.shard, self.mirror = Shard(), Mirror(RULES, Lineage())
        self.num = self.num_openings = 0

    @rule()
    def put(self):
        self.num += 1
        self.shard.put(self.num)

    @rule(data=st.data())
    def judge_again(self, data):
        if is_open := [int(g[1:]) for g, group in self.shard.held.items() if group.is_open]:
            self.shard.put(data.draw(st.sampled_from(is_open)))

    @rule(data=st.data(), progress=st.sampled_from([(OPEN, ENDED), (Progress(position=1), OPEN), (ENDED, ENDED)]))
    def move(self, data, progress):
        if is_open := [int(g[1:]) for g, group in self.shard.held.items() if group.is_open]:
            self.shard.move(data.draw(st.sampled_from(is_open)), progress)

    @rule(data=st.data())
    def drop(self, data):
        if is_open := [int(g[1:]) for g, group in self.shard.held.items() if group.is_open]:
            self.shard.drop(data.draw(st.sampled_from(is_open)))

    @rule(is_lost=st.booleans(), is_wire=st.booleans())
    def hear_a_portion(self, is_lost, is_wire):
        offer = self.shard.offer(self.mirror, max_bytes=1_000)
        if is_wire:
            offer = msgspec.msgpack.decode(msgspec.msgpack.encode(offer), type=Offer)
        if not is_lost:
            self.mirror.take_in(offer)

    @rule()
    def hear_an_old_question(self):
        self.shard.log.offer(self.shard.held, OfferMark(self.mirror.mark.stream, max(0, self.mirror.mark.number - 2)))

    @rule()
    def restart_the_planner(self):
        self.mirror = Mirror(RULES, Lineage())

    @rule()
    def restart_the_shard(self):
        self.num_openings += 1
        held, self.shard = self.shard.held, Shard(f"opening {self.num_openings}")
        for group_id, group in held.items():
            self.shard.held.put(group.record, group.progress)
            self.shard.log.note(group_id, is_open=group.is_open, is_new=True)

    @rule()
    def hear_all(self):
        hear(self.shard, self.mirror)
        assert copied(self.mirror.groups) == copied(self.shard.held)

    def teardown(self):
        self.hear_all()


Told.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
test_told = Told.TestCase
