"""Programmatic solutions: right to the end, every step of them."""

import random
import re

import pytest

from ring_async.tiny_model.domains import DOMAINS, answer, draw_example, is_worked


def test_a_chain_of_sums_is_worked_from_left_to_right() -> None:
    chain_sum = DOMAINS[0]
    entry = {"answer": "49", "metadata": {"expression": "12 + 45 - 8"}}
    assert answer(entry, chain_sum, is_worked=True) == "12+45=57-8=49<answer>49</answer>"
    assert answer(entry, chain_sum, is_worked=False) == "<answer>49</answer>"


def test_legs_are_multiplied_then_added() -> None:
    leg_counting = DOMAINS[1]
    entry = {"answer": "42", "metadata": {"animals": {"tiger": 5, "ant": 3, "human": 2}}}
    assert answer(entry, leg_counting, is_worked=True) == "20,18,4;20+18=38+4=42<answer>42</answer>"


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
def test_every_step_holds_and_the_last_one_is_the_answer(domain) -> None:
    source = domain.source()
    for index in range(50):
        entry = source.prompt(index).metadata["entry"]
        response = answer(entry, domain, is_worked=True)
        steps = response.removesuffix(f"<answer>{entry['answer']}</answer>").rpartition(";")[2]
        first, *rest = re.findall(r"(?:^|[+=-])-?\d+", steps)
        total = int(first)
        for before, after in zip(rest[::2], rest[1::2], strict=True):
            total += int(before[1:]) * (1 if before[0] == "+" else -1)
            assert after == f"={total}"
        assert str(total) == entry["answer"]


def test_the_share_of_worked_examples_is_as_asked_and_fixed_by_the_seed() -> None:
    domain = DOMAINS[0]
    source = domain.source()

    def draw() -> list[tuple[str, str]]:
        rng = random.Random(0)
        return [draw_example(domain, source, index, rng, 0.25) for index in range(200)]

    examples = draw()
    assert examples == draw()
    assert 30 <= sum(is_worked(response) for _, response in examples) <= 70
