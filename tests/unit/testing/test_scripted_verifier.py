from __future__ import annotations

import asyncio

import pytest

from ring_async.clock import monotonic_s
from ring_async.errors import VerifierError
from ring_async.testing.builders import make_prompt
from ring_async.testing.scripted_verifier import ScriptedVerifier
from ring_async.testing.virtual_clock import run_virtual
from ring_async.verifiers.base import GoldenCase, Response, Verifier

PROMPT, RESPONSE = make_prompt(), Response("2")


def score(verifier: ScriptedVerifier, prompt=PROMPT) -> float:
    return asyncio.run(verifier.score(prompt, RESPONSE)).reward


def test_rewards_are_constant_by_prompt_or_computed():
    assert score(ScriptedVerifier(0.5)) == 0.5
    assert score(ScriptedVerifier({PROMPT.prompt_id: 0.25})) == 0.25
    assert score(ScriptedVerifier(lambda prompt, response: float(response.text == "2"))) == 1.0


def test_a_prompt_outside_the_script_is_a_failure_never_a_zero():
    with pytest.raises(VerifierError, match="unscripted"):
        score(ScriptedVerifier({}))


def test_failures_come_in_order_then_stop():
    verifier = ScriptedVerifier(failures=["timeout", None, "crash"])
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(score(verifier))
        except VerifierError as failure:
            outcomes.append(failure.cause)
    assert outcomes == ["timeout", 1.0, "crash", 1.0]
    assert len(verifier.asked) == 4


def test_verdicts_take_their_time_side_by_side():
    async def main():
        verifier: Verifier = ScriptedVerifier(delay_s=3.0)
        scoring = [asyncio.ensure_future(verifier.score(PROMPT, RESPONSE)) for _ in range(4)]
        await asyncio.sleep(1.0)
        under_way = verifier.num_scoring
        verdicts = await asyncio.gather(*scoring)
        return under_way, verdicts[0].seconds, monotonic_s()

    assert run_virtual(main()) == (4, 3.0, pytest.approx(3.0))


def test_self_check_cases_and_closing():
    case = GoldenCase(PROMPT, RESPONSE, 1.0)
    verifier = ScriptedVerifier(cases=[case])
    assert verifier.golden_cases() == (case,)
    verifier.close()
    with pytest.raises(VerifierError, match="closed"):
        score(verifier)
