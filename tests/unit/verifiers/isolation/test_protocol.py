"""Frames between a verifier's client and its worker: whatever a prompt or a response holds arrives."""

import msgspec
import pytest

from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import VerifierBase
from ring_async.verifiers.isolation.protocol import Work, frame, frame_length
from ring_async.verifiers.isolation.worker import judge


def through(work):
    sent = frame(work)
    assert frame_length(sent[:4]) == len(sent) - 4
    return msgspec.msgpack.decode(sent[4:], type=Work)


def test_plain_work_arrives_unchanged():
    work = Work(Prompt("p", "s", "q", {"answer": [1, 2.5, True, None, {"a": "ü"}]}), "text", 3, "stop")
    assert through(work) == work


@pytest.mark.parametrize(
    ("answer", "arrives"),
    [
        (10**30, str(10**30)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (2**64 - 1, 2**64 - 1),
        ([1, {"a": 2**64}], [1, {"a": str(2**64)}]),
    ],
)
def test_integers_beyond_64_bits_arrive_as_their_digits(answer, arrives):
    assert through(Work(Prompt("p", "s", "q", {"answer": answer}), "t", 1, "stop")).prompt.metadata["answer"] == arrives


def test_lone_surrogates_arrive_as_question_marks():
    got = through(Work(Prompt("p", "s", "q\ud800", {"k\udfff": "\ud800"}), "t\ud800!", 1, "stop"))
    assert (got.text, got.prompt.text, got.prompt.metadata) == ("t?!", "q?", {"k?": "?"})


class Odd(VerifierBase):
    def __init__(self, outcome):
        self.outcome = outcome

    def score(self, prompt, response):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (SystemExit(0), "crash"),
        (StopIteration(), "crash"),
        (RecursionError(), "crash"),
        (MemoryError(), "memory"),
        (1.0, "bad_verdict"),
        (Verdict("much"), "bad_verdict"),
        (Verdict(10**400), "bad_verdict"),
        (Verdict(1.0, {"a": None}), "bad_verdict"),
        (Verdict(1.0, None), "bad_verdict"),
        (Verdict(1.0, {"a": 2}, "fine"), ""),
    ],
)
def test_a_worker_outlives_whatever_its_verifier_does(outcome, cause):
    got = judge(Odd(outcome), Work(Prompt("p", "s", "q"), "t", 1, "stop"))
    assert got.cause == cause
    assert len(frame(got)) > 4
