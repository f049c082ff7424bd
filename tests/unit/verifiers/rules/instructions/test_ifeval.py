import json
import random

import pytest

from ring_async.data.instruction import InstructionSource
from ring_async.errors import ConfigError, VerifierError
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.rules.instructions.kinds import IFBENCH_KINDS, IFEVAL_KINDS, KINDS
from ring_async.verifiers.rules.instructions.languages import language_of
from ring_async.verifiers.rules.instructions.sentences import count_sentences
from ring_async.verifiers.rules.instructions.verifier import InstructionVerifier, loose_variants
from ring_async.verifiers.rules.instructions.words import count_words

ENGLISH = "the river runs slowly through the old town and nobody seems to mind it at all"

# kind: (arguments, responses that follow it, responses that do not)
CASES = {
    "keywords:existence": ({"keywords": ["river", "stone"]}, ["A River of stone."], ["A river.", ""]),
    "keywords:frequency": (
        {"keyword": "river", "relation": "at least", "frequency": 2},
        ["river, River"],
        ["one river"],
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["river"]}, ["Rivers run."], ["The RIVER runs."]),
    "keywords:letter_frequency": (
        {"letter": "Z", "let_relation": "less than", "let_frequency": 2},
        ["z and more"],
        ["zz top"],
    ),
    "language:response_language": (
        {"language": "fr"},
        ["Bonjour, comment allez-vous aujourd'hui mon ami ?"],
        ["Good morning, how are you today my dear friend?"],
    ),
    "length_constraints:number_sentences": (
        {"relation": "at least", "num_sentences": 2},
        ["One. Two!", "Really? Yes"],
        ["Just one.", "Dr. Smith has 3.5 cats."],
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        ["a\n***\nb", "a\n\n***\n\nb\n***"],
        ["a\n\nb", "a\n***\nb\n***\nc", "a\n***\n***\nb"],
    ),
    "length_constraints:number_words": (
        {"relation": "less than", "num_words": 4},
        ["three small words"],
        ["there are four words"],
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "river"},
        ["a\n\nRiver it is", 'a\n\n\n"river" it is'],
        ["river\n\nb", "a\n\nriver\n\nc", "a\n\nb river"],
    ),
    "detectable_content:number_placeholders": (
        {"num_placeholders": 2},
        ["[name] of [place]"],
        ["[name]", "[name [place"],
    ),
    "detectable_content:postscript": (
        {"postscript_marker": "P.S."},
        ["Bye.\nP.S. Write soon.", "Bye.\np. s. soon"],
        ["Bye. No more.", "Bye.\nP.S."],
    ),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  - b\ntext"],
        ["* a", "* a\n* b\n* c", "**a**\n* b"],
    ),
    "detectable_format:constrained_response": ({}, ["Well: My answer is maybe."], ["Maybe."]),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        ["*a* and **b**"],
        ["*a* only", "** ** and * *"],
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb"],
        ["Section 1\na", "SECTION 1\nSECTION 2"],
    ),
    "detectable_format:json_format": (
        {},
        ['{"a": 1}', '```json\n{"a": 1}\n```', "```\n[1]\n```"],
        ["{a: 1}", 'Here: {"a": 1}'],
    ),
    "detectable_format:title": ({}, ["<<A title>>\ntext"], ["<<>>", "<A title>"]),
    "combination:two_responses": (
        {},
        ["first\n******\nsecond"],
        ["same\n******\nsame", "one", "a\n******\nb\n******\nc", "a\n******\n"],
    ),
    "combination:repeat_prompt": (
        {"prompt_to_repeat": "Say hello."},
        ["Say hello. Hello!", "say HELLO.\nHello"],
        ["Hello! Say hello."],
    ),
    "startend:end_checker": (
        {"end_phrase": "That is all."},
        ["Bye. That is all.", 'Bye. "that is all."'],
        ["That is all. Bye."],
    ),
    "startend:quotation": ({}, ['"All of it."'], ['"Some" of it', '"', "none"]),
    "change_case:capital_word_frequency": (
        {"capital_relation": "at least", "capital_frequency": 2},
        ["VERY LOUD words"],
        ["one LOUD word", "A1 22 33"],
    ),
    "change_case:english_capital": ({}, [ENGLISH.upper()], [ENGLISH, "GUTEN MORGEN MEINE LIEBEN FREUNDE, WIE GEHT ES"]),
    "change_case:english_lowercase": (
        {},
        [ENGLISH],
        [ENGLISH.upper(), "guten morgen meine lieben freunde, wie geht es"],
    ),
    "punctuation:no_comma": ({}, ["a; b"], ["a, b"]),
}


@pytest.fixture(scope="module", autouse=True)
def _language_model():
    """Loads once, before any test is timed."""
    language_of("warm up")


def prompt(*instructions):
    return Prompt("p", "s", "?", {"instructions": [{"id": name, "kwargs": kwargs} for name, kwargs in instructions]})


def reward(text, *instructions, **options):
    return InstructionVerifier(**options).score(prompt(*instructions), Response(text)).reward


def test_there_are_25_kinds_and_each_is_tested():
    assert len(IFEVAL_KINDS) == 25
    assert set(CASES) == set(IFEVAL_KINDS)
    assert set(KINDS) == set(IFEVAL_KINDS) | set(IFBENCH_KINDS)


@pytest.mark.parametrize("identifier", CASES)
def test_kind(identifier):
    arguments, followed, broken = CASES[identifier]
    assert [reward(text, (identifier, arguments)) for text in followed] == [1.0] * len(followed)
    assert [reward(text, (identifier, arguments)) for text in broken] == [0.0] * len(broken)


@pytest.mark.parametrize("identifier", CASES)
def test_kind_in_loose_mode_accepts_what_strict_mode_accepts(identifier):
    arguments, followed, _ = CASES[identifier]
    assert [reward(text, (identifier, arguments), mode="loose") for text in followed] == [1.0] * len(followed)


def test_loose_mode_forgives_a_preamble_a_closing_line_and_asterisks():
    assert set(loose_variants("a\n*b*\nc")) >= {"a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b"}
    said = "Sure, here it is:\nno commas here\nHope that helps, friend!"
    assert reward(said, ("punctuation:no_comma", {})) == 0.0
    assert reward(said, ("punctuation:no_comma", {}), mode="loose") == 1.0


def test_reward_of_several_instructions():
    instructions = [("punctuation:no_comma", {}), ("startend:quotation", {})]
    assert reward("a b", *instructions) == 0.0
    assert reward("a b", *instructions, reward="fraction") == 0.5
    assert reward('"a b"', *instructions) == 1.0


def test_the_data_set_s_own_fields_are_understood():
    metadata = {
        "instruction_id_list": ["length_constraints:number_words", "punctuation:no_comma"],
        "kwargs": [{"relation": "at least", "num_words": 2, "keyword": None}, {}],
    }
    verdict = InstructionVerifier().score(Prompt("p", "s", "?", metadata), Response("two words"))
    assert verdict.reward == 1.0
    assert verdict.parts == {"length_constraints:number_words": 1.0, "punctuation:no_comma": 1.0}


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"instructions": [{"id": "no:such_kind"}]},
        {"instructions": [{"id": "length_constraints:number_words", "kwargs": {"num_words": 3}}]},
        {"instructions": [{"id": "length_constraints:number_words", "kwargs": {"relation": "about", "num_words": 3}}]},
    ],
)
def test_a_prompt_that_cannot_be_judged_is_a_failure(metadata):
    with pytest.raises(VerifierError) as caught:
        InstructionVerifier().score(Prompt("p", "s", "?", metadata), Response("text"))
    assert caught.value.cause == "bad_prompt"


def test_counting():
    assert count_words("It's two-fold.") == 2
    assert count_sentences("Mr. Smith, e.g. here, saw 3.5 cats. Then? He left!") == 3
    assert count_sentences("") == 0
    assert count_sentences("no end") == 1


@pytest.mark.parametrize("identifier", CASES)
def test_each_kind_makes_prompts(identifier):
    kind = KINDS[identifier]
    for seed in range(5):
        arguments = kind.draw(random.Random(seed))
        arguments.setdefault("prompt_to_repeat", "Say hello.")
        assert kind.word(arguments)
        assert kind.check("some response", arguments) in (True, False)
        assert json.loads(json.dumps(arguments)) == arguments


def test_source_is_numbered_and_endless():
    source = InstructionSource("if")
    assert source.prompt(7) == InstructionSource("if").prompt(7)
    assert source.prompt(7) != source.prompt(32)
    assert source.prompt(10**6).prompt_id == "if/train/1000000"


def test_source_covers_all_kinds_and_keeps_splits_apart():
    source = InstructionSource("if")
    train, held_out = ([make(index) for index in range(200)] for make in (source.prompt, source.held_out))
    asked = {item["id"] for prompt in train for item in prompt.metadata["instructions"]}
    assert asked == set(IFEVAL_KINDS)
    assert not {prompt.text for prompt in train} & {prompt.text for prompt in held_out}


def test_source_never_combines_what_contradicts():
    source = InstructionSource("if")
    for index in range(300):
        claims = [KINDS[item["id"]].claims for item in source.prompt(index).metadata["instructions"]]
        assert sum(map(len, claims)) == len(frozenset().union(*claims))


def test_source_s_prompts_can_be_judged():
    source, verifier = InstructionSource("if"), InstructionVerifier(reward="fraction")
    for index in range(50):
        assert 0 <= verifier.score(source.prompt(index), Response("Some response.")).reward <= 1


def test_source_takes_requests_and_topics_of_one_s_own():
    topics = [f"{number} + {number}" for number in range(40)]
    source = InstructionSource("if", ["punctuation:no_comma"], 1, ["Work out {topic}."], topics)
    train, held_out = ([make(index).text for index in range(100)] for make in (source.prompt, source.held_out))
    asked = {text.removesuffix(" Do not use any commas in your response.") for text in train + held_out}
    assert asked <= {f"Work out {topic}." for topic in topics}
    assert len(asked) > 20
    assert not set(train) & set(held_out)


@pytest.mark.parametrize(
    "options",
    [
        {"kinds": ["no:such"]},
        {"max_instructions": 0},
        {"max_instructions": 4},
        {"requests": ["Say something."]},
        {"topics": ["the sea"]},
    ],
)
def test_source_refuses_mistakes(options):
    with pytest.raises(ConfigError, match=r"sources.if.options"):
        InstructionSource("if", **options)
