"""What instructions say in words, case by case: near misses, other spellings, and what only looks like following."""

# ruff: noqa: E501 - a kind is a few lines

import pytest

from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.rules.instructions.languages import is_in_language, language_of
from ring_async.verifiers.rules.instructions.sentences import count_sentences, sentences_of
from ring_async.verifiers.rules.instructions.verifier import InstructionVerifier
from ring_async.verifiers.rules.instructions.words import count_words, occurrences


@pytest.fixture(scope="module", autouse=True)
def _language_model():
    """Loads once, before any test is timed."""
    language_of("warm up")


def follows(identifier, arguments, text):
    prompt = Prompt("p", "s", "?", {"instructions": [{"id": identifier, "kwargs": arguments}]})
    return InstructionVerifier().score(prompt, Response(text)).reward == 1.0


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("...", 0),
        ("one", 1),
        ("I don't know", 3),
        ("I don’t know", 3),
        ("well-known state-of-the-art", 2),
        ("3.14 1,000 12:30", 3),
        ("at 5 p.m. in the U.S. today", 7),
        ("and/or", 2),
        ("8-4=4", 3),
        ("4,0,4", 3),
        ("1,000,000 or 10,00", 4),
        ("F-16 and a 5-year plan", 5),
        ("word—word", 2),
        ("one, two,three", 3),
        ("end.Next", 2),
        ("a_b_c", 1),
        ("**bold** _it_", 2),
        ("naïve café", 2),
        ("rock 'n' roll", 3),
        ("你好世界", 1),
        ("* a\n* b", 2),
    ],
)
def test_words(text, count):
    assert count_words(text) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four", 4),
        ("Really?! Yes.", 2),
        ("Wait... what?", 2),
        (". . . .", 0),
        ("! ! ! ! !", 0),
        ("He paid $3.50 to Mr. Smith at 5 p.m. on Main St. yesterday.", 1),
        ("Use e.g. apples, i.e. fruit, etc. in it.", 1),
        ("We met at 5 p.m. Then we ate.", 2),
        ("The U.S. Army came. It left.", 2),
        ("She lives in the U.S. He does not.", 2),
        ("J. K. Rowling wrote it.", 1),
        ("Apples, pears, etc. They are fruit.", 2),
        ("No. 5 is alive.", 1),
        ("No. I will not.", 2),
        ("Acme Inc. makes it. Others do not.", 2),
        ("He has a Ph.D. in it.", 1),
        ("1. First item\n2. Second item\n3. Third item", 3),
        ("- one\n- two.\n- three!", 3),
        ("a) one\nb) two", 2),
        ("# A heading\nA sentence. Another.", 3),
        ("A paragraph\n\nAnother one", 2),
        ("A line that\nis wrapped. The end.", 2),
        ('"Stop!" she said.', 1),
        ('She said "Stop!" Then she left.', 2),
        ("It is 3.5 m (about 11 ft.) long.", 1),
        ("one. two. three.", 3),
        ("See example.com for more.", 1),
        ("是的。今天天气很好！", 2),
        ("यह अच्छा है। हाँ।", 2),
        ("Done.**\n**Next.", 2),
    ],
)
def test_sentences(text, count):
    assert count_sentences(text) == count, sentences_of(text)


@pytest.mark.parametrize(
    ("word", "text", "count"),
    [
        ("war", "Forward, toward, reward: war.", 1),
        ("art", "Start smart apart.", 0),
        ("cat", "Cat and cats, the cat's CATS.", 4),
        ("art", "art-house, state of the art", 2),
        ("art", "_art_ **art** (art)", 3),
        ("new york", "New York, new\nyork, newyork", 2),
        ("C++", "C++ and c++, not C+", 2),
        ("e.g.", "e.g. this", 1),
        ("天气", "今天天气很好", 1),
        ("café", "cafe\u0301", 1),
        ("", "anything", 0),
    ],
)
def test_occurrences(word, text, count):
    assert occurrences(word, text) == count


LANGUAGE = [
    ("fr", "Oui."), ("fr", "Non merci"), ("fr", "Bonjour !"), ("de", "Ja."), ("de", "Guten Morgen"), ("es", "Sí."),
    ("es", "Hola amigo"), ("it", "Grazie"), ("pt", "Obrigado"), ("pl", "Tak"), ("fi", "Kiitos"), ("ru", "Да."),
    ("zh-cn", "是的，今天天气很好。"), ("zh", "好"), ("ja", "はい、そうです。"), ("ja", "今日は天気がいい"), ("ko", "네"),
    ("th", "ใช่"), ("he", "כן"), ("en", "YES"), ("en", "HELLO WORLD"), ("en", "ok"), ("en", "pizza pasta tiramisu"),
    ("en", "I agree"), ("pt-BR", "Olá, tudo bem com você hoje?"),
]  # fmt: skip
NOT_LANGUAGE = [
    ("fr", "Hello."), ("fr", "Yes"), ("de", "Oui."), ("en", "Oui."), ("en", "BONJOUR"), ("en", "hola amigo"),
    ("en", "guten morgen"), ("zh", "はい、そうです。"), ("ja", "是的，今天天气很好。"), ("ko", "はい"), ("en", "123"), ("fr", ""),
    ("es", "The weather is nice today and we go out."), ("en", "Le temps est beau aujourd'hui et nous sortons."),
]  # fmt: skip


@pytest.mark.parametrize(("language", "text"), LANGUAGE)
def test_languages(language, text):
    assert is_in_language(text, language)


@pytest.mark.parametrize(("language", "text"), NOT_LANGUAGE)
def test_other_languages(language, text):
    assert not is_in_language(text, language)


# kind, arguments, texts that follow it, texts that do not
TABLE = [
    ("detectable_content:postscript", {"postscript_marker": "P.S."},
     ["Bye. P.S. Write.", "Bye.\n**P.S.** Write.", "p.s. write", "Bye\n\nP.S.: write", "P. S. write"],
     ["Bye.", "P.S.", "PS: Write.", "P.P.S. Write.", "**P.S.**", "U.P.S. delivered"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"},
     ["P.P.S. Write.", "P.P.S Write.", "Bye. p.p.s. write"], ["P.S. Write.", "P.P.S.", "P.P.S", "PPS Write"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2},
     ["* a\n* b\n***\nend", "* a\n* b\n* * *\nend", "- a\n- b\n- - -\nend", "+ a\n+ b", "-5 degrees\n- a\n- b", "- a\n  - b",
      "**bold** start\n* a\n* b"],
     ["*a\n*b", "-1\n-2", "- \n- ", "* a", "1. a\n2. b"]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2},
     ["__a__ and _b_", "**a b** *c*", "***a*** and *b*", "_a_, (_b_)"],
     ["snake_case_name and other_name", "2 * 3 * 4 * 5", "* one\n* two", "** a ** * b *", "**a"]),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2},
     ["## Section 1\na\n## Section 2\nb", "**Section 1**\n**Section 2**", "Section 1: a\nSection 2: b", "Section1\nSection2"],
     ["Section 1\nas Section 2 says", "Section 1\nSection 1", "Section one\nSection two", "Sections 1\nSections 2"]),
    ("detectable_format:json_format", {},
     ['{"a": 1}', "[1, 2]", '```JSON\n{"a": 1}\n```', '{"a": ' + "1" * 5000 + "}", "5", '"x"'],
     ["NaN", '{"a": Infinity}', '{"a": -Infinity}', "{'a': 1}", '{"a": 1,}', "nan", '{"a": 1} {"b": 2}', "```json\n```"]),
    ("detectable_format:title", {}, ["<<A poem>>", "**<<Poem>>**", "<< A poem >>", "<<1984>>", "<<Поэма>>"],
     ["<<>>", "<< >>", "if (x << 3 >> 2)", "<A poem>", "<<a\nb>>"]),
    ("detectable_format:constrained_response", {},
     ["My answer is no.", "My answer is no.\n", "Well: My answer is maybe."],
     ["My answer is yes", "my answer is yes.", "My answer is yes. My answer is no.", "No."]),
    ("detectable_content:number_placeholders", {"num_placeholders": 1},
     ["Dear [name]", "[your address here]"], ["[ ]", "[]", "- [ ] task", "- [x] done", "[text](link)", "(name)"]),
    ("combination:two_responses", {},
     ["a\n******\nb", "a******b", "a\n******\nb\n******"], ["a\n************\nb", "a\n******\nA", "a\n*****\nb", "******\nb"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say  hello to\nme."},
     ["Say hello to me. Hello", "say hello\nto me. Hi"], ["Sure! Say hello to me.", "Say hello."]),
    ("startend:quotation", {},
     ['"All of it."', "“All of it.”", '"He said "hi" to me."', '"“Hi,” he said."'],
     ['""', '"', '"a" and "b"', "'All'", '"open', 'He said "hi"', '" "']),
    ("startend:end_checker", {"end_phrase": "That is all."},
     ["Bye. That is all.", "Bye. that is all.\n", '"Bye. That is all."', "“That is all.”"], ["That is all", "That is all. Bye."]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2},
     ["a\n***\nb", "a ***bold italic*** here\n***\nb", "***\na\n***\nb\n***", "a *** b", "a\r\n***\r\nb"],
     ["a\n****\nb", "a\n* * *\nb", "a\n---\nb", "a\n\nb", "a\n***\n***\nb", "a***b"]),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "river"},
     ["A.\n\n“River” flows", "A.\n\n**River** flows", "A.\n\n# River\ntext", "A.\n\n‘River’ flows", "A.\r\n\r\nRiver, it", "A.\n\n- river"],
     ["A.\n\nRiver's end", "A.\n\nRivers", "A.\n\nriver-bank", "A.\n\nThe river", "River.\n\nB.", "A.\n\nriver\n\nB."]),
    ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 2},
     ["NASA's ESA-led", "A B", "I AM", "VERY **LOUD**"], ["NASA", "Nasa Esa", "123 456", "iPhone"]),
    ("change_case:english_capital", {}, ["YES", "HELLO WORLD", "OK, I AGREE."], ["Yes", "OUI", "123", "BONJOUR LE MONDE"]),
    ("change_case:english_lowercase", {}, ["ok", "hello world!", "it is 5 pm"], ["Ok", "oui", "123 456", "hola amigo"]),
    ("punctuation:no_comma", {}, ["a; b", "你好，世界"], ["1,000", "a, b"]),
    ("keywords:existence", {"keywords": ["art"]}, ["The arts.", "Art!"], ["Start", "party", "artist"]),
    ("keywords:forbidden_words", {"forbidden_words": ["art"]}, ["Start the party.", "artist"], ["It is ART.", "state-of-the-art"]),
    ("keywords:letter_frequency", {"letter": "é", "let_relation": "at least", "let_frequency": 2},
     ["éÉ", "e\u0301e\u0301"], ["ee", "é"]),
]  # fmt: skip


@pytest.mark.parametrize(("identifier", "arguments", "followed", "broken"), TABLE, ids=[row[0] for row in TABLE])
def test_neighbours(identifier, arguments, followed, broken):
    assert [text for text in followed if not follows(identifier, arguments, text)] == []
    assert [text for text in broken if follows(identifier, arguments, text)] == []


def test_responses_of_every_kind_are_judged_and_never_crash():
    odd = [
        "\0",
        "\ud800",
        " ",
        "'",
        '"',
        "*",
        "_",
        "(",
        "<<",
        "[",
        "{",
        "\u202e",
        "a" * 100_000,
        "\n" * 100,
        "�",
        "１２３",
    ]
    for identifier, arguments, *_ in TABLE:
        assert [follows(identifier, arguments, text) in (True, False) for text in odd] == [True] * len(odd)
