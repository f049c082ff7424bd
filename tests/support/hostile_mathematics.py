r"""Mathematical answers made to keep a verifier busy: towers, factorials, expansions, nests, integrals, broken LaTeX.

    make fuzz                                               # 10,000 of them, with everything else
    python -m tests.support.hostile_mathematics --number 10000 --seed 7

Every expression is judged by `math` in worker processes, as in a run, under `reward.timeout_s`. Fails on a verdict
that is no verdict (a time-out, a crash, a worker out of memory), and prints the slowest ones.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Iterator

from ring_async.config.schema import VerifierSection
from ring_async.errors import VerifierError
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.registry import make_verifier
from ring_async.verifiers.scoring import score_group

TIMEOUT_S = 10.0
GOLDS = (
    "1",
    "x",
    "\\frac{1}{2}",
    "x^2+1",
    "(a+b)^{40}",
    "\\{1, 2, 3\\}",
    "(0, \\infty)",
    "5\\text{ cm}",
    "2^{2024}",
    "x > 3",
    "x + y = 1",
    "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
    "\\sin x",
    "30^\\circ",
    "9^{9^{9^{9}}}",
)
_LEAVES = (
    "0",
    "1",
    "2",
    "9",
    "-7",
    "99",
    "12345",
    "99999999",
    "1e9",
    "0.1",
    "3.7",
    "x",
    "y",
    "n",
    "i",
    "e",
    "\\pi",
    "\\infty",
    "5\\text{ m}",
    "\\overline{3}",
    "",
)
_SHAPES = (
    "{0}^{{{1}}}",
    "{0}^{1}",
    "{0}^{{-{1}}}",
    "({0})!",
    "{0}!!",
    "\\binom{{{0}}}{{{1}}}",
    "\\frac{{{0}}}{{{1}}}",
    "\\sqrt{{{0}}}",
    "\\sqrt[{0}]{{{1}}}",
    "({0}+{1})",
    "({0}-{1})",
    "{0} \\cdot {1}",
    "{0}{1}",
    "({0}+{1}+x)^{{{2}}}",
    "\\sin({0})",
    "\\cos^{{{0}}}({1})",
    "\\log_{{{0}}}({1})",
    "\\ln({0})",
    "\\exp({0})",
    "|{0}|",
    "\\lfloor {0} \\rfloor",
    "{0} \\bmod {1}",
    "\\sum_{{k={0}}}^{{{1}}} {2}",
    "\\prod_{{k=1}}^{{{0}}} ({1}+k)",
    "\\int_{{{0}}}^{{{1}}} {2} dx",
    "\\lim_{{x\\to {0}}} {1}",
    "\\{{{0}, {1}, {2}\\}}",
    "({0}, {1})",
    "[{0}, {1})",
    "{0} = {1}",
    "{0} < {1}",
    "{0} \\cup {1}",
    "{0}, {1}",
    "{0} \\pm {1}",
    "\\begin{{pmatrix}}{0} & {1}\\\\{2} & 1\\end{{pmatrix}}^{{{1}}}",
    "\\begin{{vmatrix}}{0} & {1}\\\\{2} & {0}\\end{{vmatrix}}",
    "\\gcd({0}, {1})",
    "\\frac{{d}}{{dx}} {0}",
    "C({0},{1})",
    "{0}_{{{1}}}",
    "\\text{{{0}}}",
    "{0}\\%",
    "{0}^\\circ",
    "\\sqrt{{{0}+\\sqrt{{{1}}}}}",
    "\\tan^{{-1}}({0})",
    "\\frac{{{0}}}{{1+\\frac{{{1}}}{{{2}}}}}",
    "f({0})",
    "{0}:{1}",
    "e^{{{0}}}",
)
_REPEATED = (
    "(",
    ")",
    "{",
    "}",
    "[",
    "\\left(",
    "\\sqrt{",
    "\\frac{1}{",
    "^{9",
    "!",
    "|",
    "\\pm ",
    "1+",
    "x^",
    "9^",
    "\\text{",
    "-",
    ", ",
    "1,",
    "\\dot",
    "\\overline{",
    "=",
    "<",
    "\\cup ",
    "\\begin{pmatrix}",
    "&",
    "\\\\",
    "$",
    "#",
    "_{",
    "\\binom{9}{",
    "(x+1)",
    "\\int ",
    "\\boxed{",
    "½",
    "²",
    "√",
    "三",
    "💥",
    "\x00",
    "e^{",
    "\\sin ",
    "((",
    "9" * 20,
    "a b ",
)


def hostile_answers(number: int, seed: int) -> Iterator[str]:
    """`number` expressions, the same for the same seed."""
    draw = random.Random(seed)
    for _ in range(number):
        kind = draw.random()
        if kind < 0.7:
            answer = _expression(draw, draw.randint(1, 5))
        elif kind < 0.9:
            piece = draw.choice(_REPEATED)
            answer = piece * draw.randint(2, 700 // len(piece) + 2) + draw.choice(_LEAVES)
            answer += draw.choice(("", "}" * answer.count("{"), ")" * answer.count("(")))
        else:
            answer = _damaged(draw, _expression(draw, 3))
        yield answer[: draw.choice((200, 599, 900, 5000))]


async def judge_all(number: int, seed: int, num_workers: int) -> tuple[list[str], list[tuple[float, str]]]:
    """What failed, and each expression's seconds, the slowest first."""
    verifier = make_verifier("math", VerifierSection(use="math"), num_workers=num_workers)
    failures: list[str] = []
    seconds: list[tuple[float, str]] = []
    draw = random.Random(seed)
    answers = [(draw.choice(GOLDS), answer) for answer in hostile_answers(number, seed)]
    waiting = iter(answers)

    async def work() -> None:
        for gold, answer in waiting:
            started = time.perf_counter()
            try:
                response = Response(f"so \\boxed{{{answer}}}")
                await score_group(verifier, Prompt("p", "hostile", "?", {"answer": gold}), [response], TIMEOUT_S)
            except VerifierError as error:
                failures.append(f"{error}: {answer[:200]!r} for {gold!r}")
            seconds.append((time.perf_counter() - started, answer))

    try:
        await asyncio.gather(*[work() for _ in range(num_workers)])
    finally:
        verifier.close()
    return failures, sorted(seconds, reverse=True)


def _expression(draw: random.Random, depth: int) -> str:
    if depth == 0 or draw.random() < 0.1:
        return draw.choice(_LEAVES)
    shape = draw.choice(_SHAPES)
    return shape.format(*[_expression(draw, depth - 1) for _ in range(3)])


def _damaged(draw: random.Random, text: str) -> str:
    characters = list(text)
    for _ in range(draw.randint(1, 5)):
        if characters:
            position = draw.randrange(len(characters))
            characters[position : position + draw.randint(0, 2)] = draw.choice(
                ("", "\\", "{", "}", "^", "!", "9", ",", "&", "_", "$")
            )
    return "".join(characters)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--num-workers", type=int, default=2)
    options = parser.parse_args()
    failures, seconds = asyncio.run(judge_all(options.number, options.seed, options.num_workers))
    for failure in failures[:20]:
        print(f"FAILED {failure}")
    for took, answer in seconds[:3]:
        print(f"{took:6.2f} s {answer[:120]!r}")
    print(f"seed {options.seed}: {options.number} hostile expressions, {len(failures)} without a verdict")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
