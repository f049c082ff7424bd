"""Text made to keep regular expressions busy: every check must be done with it, or these tests time out."""

import pytest

from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.rules.answers import boxed_answer, last_number, tagged_answer
from ring_async.verifiers.rules.code.extraction import extract_program
from ring_async.verifiers.rules.instructions.kinds import KINDS
from ring_async.verifiers.rules.instructions.verifier import InstructionVerifier
from ring_async.verifiers.rules.logic.screening import is_plausible_answer
from ring_async.verifiers.rules.math import MathVerifier
from ring_async.verifiers.rules.stem import StemVerifier

SIZE = 100_000
HOSTILE = [
    "\n" * SIZE,
    " " * SIZE + "x",
    "." * SIZE + "x",
    "*" * SIZE + "x",
    "* " * (SIZE // 2),
    "[" * SIZE,
    "<<" * (SIZE // 2),
    "\n " * (SIZE // 2) + "x",
    "```" + "a" * SIZE,
    "```\n" * (SIZE // 4),
    "```json" + " " * SIZE + "x",
    "\\boxed{" * (SIZE // 7),
    "<answer>" * (SIZE // 8),
    "answer is" + " " * SIZE,
    "1" * SIZE,
    "1,111" * (SIZE // 5),
    "P." * (SIZE // 2),
    "Section " * (SIZE // 8),
    "Section" + " " * SIZE,
    "\\text{" * (SIZE // 6),
    '"' * SIZE,
    "a." * (SIZE // 2),
    "a-" * (SIZE // 2),
    "a'" * (SIZE // 2),
    "_a" * (SIZE // 2),
    "*a" * (SIZE // 2),
    "a " * (SIZE // 2),
    "Mr. " * (SIZE // 4),
    "U.S. " * (SIZE // 5),
    "1. a\n" * (SIZE // 5),
    "\"'" * (SIZE // 2),
    "([" * (SIZE // 2),
    "- - " * (SIZE // 4),
    "My Answer: My Conclusion: " * (SIZE // 26),
    "\U0001f600 " * (SIZE // 2),
]
ARGUMENTS = {
    "keywords": ["a"],
    "keyword": "a",
    "forbidden_words": ["a"],
    "relation": "at least",
    "frequency": 1,
    "letter": "a",
    "let_relation": "at least",
    "let_frequency": 1,
    "num_sentences": 1,
    "num_paragraphs": 1,
    "num_words": 1,
    "nth_paragraph": 1,
    "first_word": "a",
    "num_placeholders": 1,
    "postscript_marker": "P.S.",
    "num_bullets": 1,
    "num_highlights": 1,
    "section_spliter": "Section",
    "num_sections": 1,
    "prompt_to_repeat": "a",
    "end_phrase": "a",
    "capital_relation": "at least",
    "capital_frequency": 1,
    "min_words": 1,
    "max_words": 2,
    "N": 1,
    "n": 1,
    "m": 1,
    "small_n": 1,
    "percentage": 50,
    "reference_text": "a b c d",
    "word": "a",
    "options": "a/b",
    "sep": "-->",
    "n_start": 0,
    "n_end": 1,
    **{f"keyword{index}": "a" for index in range(1, 6)},
}
QUICK_KINDS = sorted(set(KINDS) - {"language:response_language"})


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.timeout(20)
def test_hostile_text_is_judged(text):
    boxed_answer(text)
    tagged_answer(text)
    last_number(text)
    extract_program(text)
    MathVerifier().is_equal("5", text)
    MathVerifier(extract="last_number").score(Prompt("p", "s", "?", {"answer": "5"}), Response(text))
    for task in ("countdown", "n_queens"):
        is_plausible_answer(task, text)
    instructions = [{"id": identifier, "kwargs": ARGUMENTS} for identifier in QUICK_KINDS]
    InstructionVerifier().score(Prompt("p", "s", "?", {"instructions": instructions}), Response(text))
    for answer in (text, f"<answer>{text}</answer>", "\\boxed{A" + text + "}"):
        for gold in ("A", "5 m"):
            StemVerifier().score(Prompt("p", "s", "?", {"answer": gold}), Response(answer))
