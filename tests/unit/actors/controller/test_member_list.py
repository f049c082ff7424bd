"""The list of members by difference: whoever follows it knows what the controller knows, whatever was lost between."""

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from ring_async.actors.controller.member_list import MemberList
from ring_async.actors.known_members import KnownMembers
from ring_async.config.schema import TransportSection
from ring_async.core.roster import Role
from ring_async.transport.codec import Codec
from ring_async.transport.messages.fleet import Member, MembersChanged, MembersMark


def member(index, incarnation=0):
    host = f"host-{index % 100}.cluster.example"
    return Member(
        f"rollout-{index}", Role.ROLLOUT, incarnation, 123_456, host, f"tcp://10.0.{index // 256}.{index % 256}:43210",
        f"tcp://10.0.{index // 256}.{index % 256}:43211", f"http://10.0.0.1:{9_000 + index % 1_000}/metrics",
    )  # fmt: skip


def test_a_change_is_told_as_a_change():
    members, known = MemberList(incarnation=0), KnownMembers()
    members.update([member(0), member(1)])
    known.registered([member(0), member(1)], members.mark)
    mark = members.mark
    members.update([member(0, incarnation=1), member(2)])
    news = members.since(mark)
    assert set(news.members) == {member(0, incarnation=1), member(2)}
    assert news.gone == ("rollout-1",)
    assert known.follow(news)
    assert known.by_id == {"rollout-0": member(0, incarnation=1), "rollout-2": member(2)}
    assert members.since(members.mark) == MembersChanged((), since=members.mark, mark=members.mark)


def test_one_change_among_thousands_of_members_is_a_small_message():
    codec = Codec(TransportSection())
    sizes = []
    for num in (100, 4_000):
        members = MemberList(incarnation=0)
        fleet = [member(index) for index in range(num)]
        members.update(fleet)
        mark = members.mark
        members.update([*fleet[1:], member(num)])
        sizes.append(len(codec.encode_message(members.since(mark))))
    assert max(sizes) < 500
    assert max(sizes) - min(sizes) < 20
    assert len(codec.encode_message(members.since(None))) > 500_000


def test_a_difference_whose_beginning_is_not_known_is_asked_for_whole():
    members, known = MemberList(incarnation=0), KnownMembers()
    members.update([member(0)])
    mark = members.mark
    members.update([member(0), member(1)])
    assert not known.follow(members.since(mark)), "it has not even registered yet"
    assert known.follow(members.since(None))
    assert set(known.by_id) == {"rollout-0", "rollout-1"}


def test_an_answer_to_a_registration_does_not_undo_faster_news():
    known = KnownMembers()
    assert known.follow(MembersChanged((member(0), member(1)), mark=MembersMark(0, 7)))
    known.registered([member(0)], MembersMark(0, 6))
    assert set(known.by_id) == {"rollout-0", "rollout-1"}


def test_a_controller_that_restarted_begins_with_the_whole_list():
    known = KnownMembers()
    known.registered([member(0), member(1)], MembersMark(0, 900))
    again = MemberList(incarnation=1)
    again.update([member(0)])
    known.registered([member(0)], again.mark)
    assert set(known.by_id) == {"rollout-0", "rollout-1"}, "the others have not registered again yet"
    assert known.follow(again.since(None))
    assert set(known.by_id) == {"rollout-0"}


class News(RuleBasedStateMachine):
    """Members come and go, the controller restarts, news and its answers are lost or come twice."""

    def __init__(self):
        super().__init__()
        self.fleet, self.members, self.known = {}, MemberList(incarnation=0), KnownMembers()
        self.told = None
        """What the controller believes the member to know."""
        self.last = None

    @rule(index=st.integers(0, 5), incarnation=st.integers(0, 2))
    def join(self, index, incarnation):
        self.fleet[index] = member(index, incarnation)
        self.members.update(self.fleet.values())

    @rule(index=st.integers(0, 5))
    def leave(self, index):
        self.fleet.pop(index, None)
        self.members.update(self.fleet.values())

    @rule()
    def restart_the_controller(self):
        self.members, self.told = MemberList(self.members.mark.incarnation + 1), None
        self.members.update(self.fleet.values())

    @rule(is_delivered=st.booleans(), is_answered=st.booleans())
    def tell(self, is_delivered, is_answered):
        news = msgspec.msgpack.decode(msgspec.msgpack.encode(self.members.since(self.told)), type=MembersChanged)
        if is_delivered:
            is_followed = self.known.follow(news)
            if is_answered:
                self.told = news.mark if is_followed else None
            self.last = news

    @rule()
    def tell_again(self):
        if self.last is not None:
            self.known.follow(self.last)

    @rule()
    def register(self):
        self.known.registered(tuple(self.fleet.values()), self.members.mark)

    def teardown(self):
        for _ in range(2):
            self.tell(is_delivered=True, is_answered=True)
        assert self.known.by_id == {one.actor_id: one for one in self.fleet.values()}


News.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
test_news = News.TestCase
