import asyncio
import threading

import pytest

from ring_async.errors import VerifierError
from ring_async.types import Prompt, Verdict
from ring_async.verifiers.base import Response, VerifierBase
from ring_async.verifiers.scoring import judge_group, num_abandoned_threads, score_group, score_one

PROMPT = Prompt("p", "s", "?")


class Judge(VerifierBase):
    """Judges by a function of the text."""

    name = "judge"

    def __init__(self, function):
        self.function = function

    def score(self, prompt, response):
        return self.function(response.text)


class AsyncJudge(Judge):
    async def score(self, prompt, response):
        return self.function(response.text)


class BatchJudge(Judge):
    def score_batch(self, prompt, responses):
        return [self.function(response.text) for response in responses]


class DeadlineJudge(Judge):
    async def score_within(self, prompt, response, timeout_s):
        return Verdict(timeout_s)


class GroupJudge(Judge):
    async def score_group_within(self, prompt, responses, timeout_s):
        return [self.function(response.text) for response in responses]


def group(verifier, *texts, timeout_s=5.0):
    return asyncio.run(score_group(verifier, PROMPT, [Response(text) for text in texts], timeout_s))


def cause_of(verifier, *texts, timeout_s=5.0):
    with pytest.raises(VerifierError) as caught:
        group(verifier, *texts, timeout_s=timeout_s)
    return caught.value.cause


ALL_STYLES = pytest.mark.parametrize("style", [Judge, AsyncJudge, BatchJudge, GroupJudge])


@ALL_STYLES
def test_verdicts_come_in_the_order_of_the_responses(style):
    verdicts = group(style(lambda text: Verdict(float(text), {"x": 1})), "1", "2", "3")
    assert [verdict.reward for verdict in verdicts] == [1.0, 2.0, 3.0]
    assert verdicts[0].parts == {"x": 1.0}


def test_seconds_are_filled_in_or_kept():
    assert group(Judge(lambda text: Verdict(1.0)), "a")[0].seconds > 0
    assert group(Judge(lambda text: Verdict(1.0, seconds=7.0)), "a")[0].seconds == 7.0


@ALL_STYLES
def test_a_crash_is_a_failure(style):
    assert cause_of(style(lambda text: 1 / 0), "a") == "crash"


@ALL_STYLES
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_not_finite_is_a_failure(style, value):
    assert cause_of(style(lambda text: Verdict(value)), "a") == "non_finite"
    assert cause_of(style(lambda text: Verdict(1.0, {"part": value})), "a") == "non_finite"


@ALL_STYLES
@pytest.mark.parametrize("answer", [None, 1.0, Verdict("high"), Verdict(1.0, {"part": "high"})])
def test_what_is_no_verdict_is_a_failure(style, answer):
    assert cause_of(style(lambda text: answer), "a") == "bad_verdict"


def test_a_batch_of_the_wrong_size_is_a_failure():
    judge = BatchJudge(lambda text: Verdict(1.0))
    judge.score_batch = lambda prompt, responses: [Verdict(1.0)]
    assert cause_of(judge, "a", "b") == "bad_verdict"


@ALL_STYLES
def test_a_verifier_s_own_cause_is_kept(style):
    def refuse(text):
        raise VerifierError("no_gpu", "none left")

    assert cause_of(style(refuse), "a") == "no_gpu"


def test_one_failure_fails_the_group():
    assert (
        cause_of(Judge(lambda text: Verdict(1.0) if text == "a" else Verdict(float("nan"))), "a", "b") == "non_finite"
    )


def test_an_async_verifier_that_never_answers_times_out():
    class Never(VerifierBase):
        name = "never"

        async def score(self, prompt, response):
            await asyncio.Event().wait()

    assert cause_of(Never(), "a", timeout_s=0.01) == "timeout"


def test_a_sync_verifier_that_never_answers_times_out_and_its_thread_is_counted():
    release = threading.Event()
    judge = Judge(lambda text: release.wait() and Verdict(1.0))
    assert cause_of(judge, "a", timeout_s=0.01) == "timeout"
    assert num_abandoned_threads() == 1
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("verifier-"):
            thread.join()
    assert num_abandoned_threads() == 0


def test_too_many_calls_that_never_returned_refuse_further_ones(monkeypatch):
    monkeypatch.setattr("ring_async.verifiers.scoring.MAX_ABANDONED", 0)
    assert cause_of(Judge(lambda text: Verdict(1.0)), "a") == "stalled"


def test_a_verifier_that_keeps_deadlines_is_told_them():
    assert group(DeadlineJudge(None), "a", timeout_s=3.0)[0].reward == 3.0


def test_score_may_return_an_awaitable():
    async def later():
        return Verdict(2.0)

    assert group(Judge(lambda text: later()), "a")[0].reward == 2.0


def test_responses_of_a_group_are_judged_at_once():
    together = threading.Barrier(4, timeout=5)
    judge = Judge(lambda text: Verdict(float(together.wait() >= 0)))
    assert len(group(judge, *"abcd")) == 4


def test_score_one_judges_one():
    assert asyncio.run(score_one(Judge(lambda text: Verdict(0.5)), PROMPT, Response("a"), 1.0)).reward == 0.5


def raising(error):
    def judge(_text):
        raise error

    return judge


@ALL_STYLES
@pytest.mark.parametrize(
    "error", [StopIteration(1), StopAsyncIteration(), SystemExit(3), GeneratorExit(), MemoryError()]
)
def test_whatever_a_verifier_raises_is_a_crash_and_neither_a_timeout_nor_an_end(style, error):
    if style is not Judge and isinstance(error, GeneratorExit):
        pytest.skip("a coroutine's own end")
    assert cause_of(style(raising(error)), "x") == "crash"


@ALL_STYLES
@pytest.mark.parametrize("value", [1e6 * 1.001, -2e6, 1e300])
def test_a_reward_beyond_the_bound_is_a_failure(style, value):
    assert cause_of(style(lambda text: Verdict(value)), "x") == "out_of_bounds"


def test_the_bound_can_be_chosen():
    judge = Judge(lambda text: Verdict(float(text)))
    assert group(judge, "1e6")[0].reward == 1e6
    wide = score_group(judge, PROMPT, [Response("-1e9")], 5.0, 1e9)
    assert asyncio.run(wide)[0].reward == -1e9
    with pytest.raises(VerifierError, match=r"reward 2 is beyond ±1 \(reward.bound\)"):
        asyncio.run(score_group(judge, PROMPT, [Response("2")], 5.0, 1.0))


@pytest.mark.parametrize("reward", [10**400, "much", None, [1.0], 1j])
def test_a_reward_that_is_no_number_is_a_failure(reward):
    assert cause_of(Judge(lambda text: Verdict(reward)), "x") == "bad_verdict"


def judged(verifier, *texts, timeout_s=5.0):
    outcomes = asyncio.run(judge_group(verifier, PROMPT, [Response(text) for text in texts], timeout_s))
    return [one.cause if isinstance(one, VerifierError) else one.reward for one in outcomes]


@pytest.mark.parametrize("kind", [Judge, AsyncJudge])
def test_a_response_that_the_verifier_fails_on_is_told_from_the_others(kind):
    verdicts = {"good": Verdict(1.0), "odd": Verdict(float("nan")), "huge": Verdict(1e9)}
    assert judged(kind(verdicts.__getitem__), "good", "unknown", "odd", "huge") == [
        1.0, "crash", "non_finite", "out_of_bounds",
    ]  # fmt: skip


def test_a_failure_that_is_not_one_responses_own_is_the_groups():
    def stalled(text):
        raise VerifierError("stalled", "busy")

    for verifier in (Judge(stalled), Judge(lambda text: 1 / 0), BatchJudge(lambda text: 1 / int(text))):
        with pytest.raises(VerifierError):
            judged(verifier, "1", "0")
