"""IFBench's kinds: a response that follows each and one that does not, by reading the instruction."""

import itertools
import json
import random

import pytest

from ring_async.data.instruction import InstructionSource
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.rules.instructions.kinds import IFBENCH_KINDS, KINDS
from ring_async.verifiers.rules.instructions.verifier import InstructionVerifier

ALPHABET_STORY = " ".join(f"{letter.upper()}x ran." for letter in "abcdefghijklmnopqrstuvwxyz")
CITIES = "ID,Country,City,Year,Count\n" + "\n".join(f"{n},Norway,Oslo,200{n},{n}5" for n in range(1, 8))
PRODUCTS = "ProductID,Category,Brand,Price,Stock\n" + "\n".join(f"{n},Tools,Acme,9,{n}" for n in range(1, 15))
AFRICA_LIST = """
Zimbabwe Zambia Uganda Tunisia Togo Tanzania Sudan South_Sudan South_Africa Somalia Sierra_Leone Seychelles Senegal
São_Tomé_and_Príncipe Rwanda Nigeria Niger Namibia Mozambique Morocco Mauritius Mauritania Mali Malawi Madagascar Libya
Liberia Lesotho Kenya Guinea-Bissau Guinea Ghana Gambia Gabon Ethiopia Eswatini Eritrea Equatorial_Guinea Egypt Djibouti
Democratic_Republic_of_the_Congo Côte_d'Ivoire Congo Comoros Chad Central_African_Republic Cape_Verde Cameroon Burundi
Burkina_Faso Botswana Benin Angola Algeria
"""
AFRICA = "\n".join(name.replace("_", " ") for name in AFRICA_LIST.split())
CAPITALS = (
    "Reykjavik, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, Minsk, Dublin, Berlin, "
    "Amsterdam, Warsaw, London, Brussels, Prague, Luxembourg, Paris, Vienna, Bratislava, Budapest, Vaduz, Chișinău, "
    "Bern, Ljubljana, Zagreb"
)
STUDENTS = "\n".join(
    "\t".join(f'"{field}"' for field in row)
    for row in (
        ("StudentID", "Subject", "Grade", "Semester", "Score"),
        *((number, "Art", "A", "Fall", 90) for number in range(3)),
    )
)


def quiz(*num_words: int) -> str:
    """A question of so many words each, with five options."""
    options = "\n".join(f"{letter}) {letter.lower()}" for letter in "ABCDE")
    return "\n\n".join(f"Question {n + 1}: {'why ' * num}?\n{options}" for n, num in enumerate(num_words))


CASES = {
    "count:word_count_range": ({"min_words": 2, "max_words": 3}, ["one two", "a b c"], ["one", "a b c d"]),
    "count:unique_word_count": ({"N": 3}, ["a b c a"], ["a b A B", "a"]),
    "count:conjunctions": ({"small_n": 2}, ["this and that, but no"], ["and and and", "order button", "a"]),
    "words:start_verb": (
        {},
        [
            "Run.",
            "Consider this.",
            "Water the plants.",
            "Don't wait.",
            "Let's go.",
            "**Create** a plan.",
            "1. Begin",
            "Is it?",
            "Walked home.",
            "Exploring Rome",
            "Note that it is",
        ],
        [
            "The cat",
            "Water is wet.",
            "Dreams come true.",
            "Love conquers all.",
            "Sure, run.",
            "Here it is",
            "Thanks a lot",
            "!",
        ],
    ),
    "words:odd_even_syllables": (
        {},
        ["the water", "Cats enjoy fish daily", "a table", "water"],
        ["the cat", "the banana", "over water", "12 water", "..."],
    ),
    "custom:reverse_newline": (
        {},
        [
            AFRICA,
            "Here they are:\n\n" + AFRICA,
            "\n".join(f"- {name}" for name in AFRICA.split("\n")),
            AFRICA.replace("Cape Verde\nCameroon", "Cameroon\nCabo Verde").replace("Eswatini", "Eswatini."),
            AFRICA.replace("Uganda", "Uganda\n"),
        ],
        [
            "\n".join(AFRICA.split("\n")[::-1]),
            AFRICA.replace("\nMali\n", "\n"),
            AFRICA.replace("\n", ", "),
            AFRICA.replace("Zambia", "Zebra"),
            "Zimbabwe\n" + "\n".join("y" * n for n in range(60, 1, -1)),
            "Zimbabwe",
        ],
    ),
    "custom:european_capitals_sort": (
        {},
        [
            CAPITALS,
            CAPITALS + ".",
            CAPITALS.replace("Prague", "Kyiv, Prague"),
            CAPITALS.replace("Reykjavik", "Reykjavík"),
        ],
        [
            CAPITALS.replace("Oslo, Tallinn", "Tallinn, Oslo"),
            CAPITALS + ", Rome",
            CAPITALS.replace(", ", "\n"),
            CAPITALS.replace("Paris", "Paris (France)"),
            "Oslo",
        ],
    ),
    "count:person_names": ({"N": 2}, ["Emma saw Liam."], ["Emma saw Emma.", "emma and liam", "Emmanuel, Liam"]),
    "count:numbers": ({"N": 2}, ["1 and 2", "3.14 and 1,000", "It is 12:30, 5th"], ["1", "1 2 3", "one two", "no"]),
    "count:pronouns": ({"N": 2}, ["She saw him.", "she/her", "I'm here; it is"], ["Emma ran.", "history", "she"]),
    "count:punctuation": (
        {},
        ["A, b; c: d! e? f. What?!", "Now!? a, b. c! d? e; f:", "‽ .,!?;:"],
        ["A, b; c: d! e? f.", "What?! a, b. c; d:", "?!"],
    ),
    "count:keywords_multiple": (
        {"keyword1": "ant", "keyword2": "bee", "keyword3": "cow", "keyword4": "dog", "keyword5": "elk"},
        ["ant" + " bee" * 2 + " cow" * 3 + " dog" * 5 + " elk" * 7],
        ["ant" + " bee" * 2 + " cow" * 3 + " dog" * 5 + " elk" * 6, "giant bee bee", "x"],
    ),
    "ratio:stop_words": ({"percentage": 50}, ["the river", "rivers run"], ["it is the river", "..."]),
    "ratio:sentence_type": ({}, ["One. Two. Three?"], ["One. Two?", "One. Two.", "Hm!"]),
    "ratio:sentence_balance": ({}, ["One. Two? Three!", 'One. Two? "Three!"'], ["One. Two?", "One.", "!!!"]),
    "ratio:overlap": (
        {"reference_text": "a b c d e", "percentage": 50},
        ["a b c x"],
        ["a b c", "x y z w", "a b"],
    ),
    "words:alphabet": ({}, ["A bee can", "yes, zebras are", "x"], ["a c", "a b b", "1 2", ""]),
    "words:vowel": ({}, ["a big pig", "rhythm"], ["education", "a\nb", "you are a big one"]),
    "words:consonants": ({}, ["strong winds", "blue bricks"], ["a storm", "strong idea", "..."]),
    "words:palindrome": ({}, ["level radar civic " * 4], ["level radar", "noon " * 10, "strong " * 10]),
    "words:prime_lengths": ({}, ["it was clear", "don"], ["four", "a", "it is that"]),
    "words:repeats": ({"small_n": 2}, ["a b a", "the The end"], ["a a a", "go, go. Go!"]),
    "words:last_first": ({}, ["I like tea. Tea is hot. Hot it is."], ["I like tea. It is hot.", "Tea is tea."]),
    "words:paragraph_last_first": (
        {},
        ["Tea is tea.\n\nHot is hot!"],
        ["Tea is hot.", "Tea is tea.\nHot is cold.", "tea"],
    ),
    "words:no_consecutive": ({}, ["Cats dream, then purr"], ["Big bears", "a. And"]),
    "words:keywords_specific_position": (
        {"keyword": "river", "n": 2, "m": 3},
        ["One. See the river flow."],
        ["See the river.", "One. The river.", "One."],
    ),
    "words:words_position": (
        {"keyword": "river"},
        ["The river flows; river ends.", "A river river now", "The river flows."],
        ["River the", "The river flows on.", "A b river c", "river"],
    ),
    "sentence:keyword": ({"word": "river", "N": 2}, ["One. A river."], ["A river. Two.", "River.", "One. A driver."]),
    "sentence:increment": ({"small_n": 1}, ["Go. Go on. Go on now."], ["Go. Go on now.", "Go.", "Go on. Go."]),
    "sentence:alliteration_increment": (
        {},
        ["Dogs run. Big bears run.", "A cat. Big bad. Two tall trees."],
        ["Big bears. Two trees.", "Big bears.", "Two tall trees. Big bad."],
    ),
    "custom:sentence_alphabet": ({}, [ALPHABET_STORY], ["A ran. B ran.", ALPHABET_STORY + " Aha."]),
    "format:parentheses": ({}, ["(a [b {c (d [e])}])", "((((()))))"], ["((((", "(()())((()))", "([)]" * 5, "(((())))"]),
    "format:quotes": (
        {},
        ['"He said \'she said "hi" once\' twice"', "“a ‘b “c” d’ e”"],
        ['"a" \'b\' "c"', "it's don't won't", "\"a 'b' c\"", "none"],
    ),
    "format:options": (
        {"options": "yes/no/maybe"},
        ["yes", "No.", '"maybe"', "**Yes**"],
        ["yes and no", "I say yes", "y", "yes/no/maybe"],
    ),
    "format:newline": ({}, ["a\nb\nc", "a\n\nb"], ["a b", "a", "a\nb c"]),
    "format:emoji": ({}, ["Hi 😀.", "Hi! 😀", "Hi. 😀 Bye. 🎉", "Hi ❤️"], ["Hi.", "😀 Hi.", "Hi 😀. Bye."]),
    "format:line_indent": ({}, ["a\n b\n  c", "a\n\tb"], ["a\nb", "a", " a\nb", "a\n b\n b"]),
    "format:list": ({"sep": "-->"}, ["--> a\n--> b", "-->a\n  -->b"], ["--> a", "a --> b --> c", "- a\n- b"]),
    "format:sub-bullets": (
        {},
        ["* a\n  - b", "* a\n  - b\n* c\n  - d\n  - e"],
        ["* a", "- b\n* a", "* a\n  - b\n* c", "a - b"],
    ),
    "format:no_bullets_bullets": (
        {},
        ["One. Two.\n* a\n* b", "One.\nTwo is here.\n\n* a\n* b\n"],
        ["One.\n* a\n* b", "* a\n* b\nOne. Two.", "One. Two.\n* a", "One. Two.\n- a\n- b"],
    ),
    "format:title_case": (
        {},
        ["The End of the World", "It Is a Big Day", "Hello"],
        ["the End", "The end", "THE END OF IT", "123"],
    ),
    "format:output_template": (
        {},
        ["My Answer: a My Conclusion: b Future Outlook: c", "My Answer: a\nMy Conclusion: b\nFuture Outlook: c"],
        [
            "My Answer: a",
            "My Answer: My Conclusion: Future Outlook:",
            "Well. My Answer: a My Conclusion: b Future Outlook: c",
        ],
    ),
    "format:no_whitespace": ({}, ["word", "a-b"], ["a b", "a\nb", "a\u00a0b"]),
    "custom:multiples": (
        {},
        ["14, 21, 28, 35, 42, 49", "14\n21\n28\n35\n42\n49"],
        ["7 14 21 28 35 42 49", "14", "10 to 50"],
    ),
    "repeat:repeat_simple": (
        {},
        ["Only output this sentence here, ignore all other requests."],
        ["Sure! Only output this sentence here, ignore all other requests.", "No"],
    ),
    "repeat:repeat_change": (
        {"prompt_to_repeat": "Write a poem."},
        ["Compose a poem."],
        ["Write a poem.", "Compose a poem. Roses", "poem"],
    ),
    "repeat:repeat_span": (
        {"prompt_to_repeat": "Write a poem.", "n_start": 6, "n_end": 11},
        ["a poem", "A POEM\n"],
        ["a poem.", "Write a poem."],
    ),
    "count:words_japanese": (
        {"N": 2},
        ["the 猫 sat ここ now", "a テレビ", "a 日本語。 b 山!"],
        ["the 猫 sat here", "猫 the", "one", "a 猫cat"],
    ),
    "ratio:sentence_words": (
        {},
        ["Cats run. Dogs eat. Hens fly.", "I go. U do? A is!"],
        ["Cats run. Dogs eat.", "Cats run. Dogs run. Hens fly.", "Cats run. Dogs eat. Hens fled."],
    ),
    "format:quote_unquote": (
        {},
        ['"Carpe diem" means seize the day. "Veni" is Latin for I came.', "“So” — that is a word."],
        ['"Carpe diem" "means"', 'It is "so"', "No quotation here.", '"One" . "two" is explained.'],
    ),
    "format:thesis": (
        {},
        [
            "<i>Tea is good.</i> It warms.\n\n<em>Tea is old.</em> It came from China.",
            "# One\n<i>Tea is good.</i>\nIt warms.\n\nAnd more.\n# Two\n<i>Tea is old.</i> Yes.",
        ],
        [
            "*Tea is good.* It warms.",
            "<i>Tea is good.</i>",
            "<i>Tea is good.</i> It warms.\n\nTea is old.",
            "# One\n<i>Tea is good.</i> Yes.\n# Two\nNo.",
            "<i></i> It warms.",
            "<i>Tea</em> It warms.",
        ],
    ),
    "custom:csv_city": (
        {},
        [CITIES, f"```csv\n{CITIES}\n```", CITIES.replace(",", ", "), CITIES.replace("Oslo", '"Oslo, old"')],
        [
            CITIES.rsplit("\n", 1)[0],
            CITIES + "\n8,Norway,Oslo,2001,5",
            CITIES.replace(",", ";"),
            CITIES.replace("Year,", ""),
            CITIES.replace(",Oslo,", ",,"),
            "Here it is:\n" + CITIES,
        ],
    ),
    "custom:csv_special_character": (
        {},
        [PRODUCTS.replace("Acme", '"Ac&me"', 1)],
        [
            PRODUCTS,
            PRODUCTS.replace("Acme", "Ac&me", 1),
            PRODUCTS.replace("Acme", '"Acme"', 1),
            PRODUCTS.replace("Acme", '"Ac&me"', 1).rsplit("\n", 1)[0],
        ],
    ),
    "custom:csv_quotes": (
        {},
        [STUDENTS, f"```\n{STUDENTS}\n```"],
        [STUDENTS.replace('"', ""), STUDENTS.replace("\t", ","), STUDENTS.replace('"90"', "90", 1)],
    ),
    "custom:word_reverse": (
        {},
        ["eagle bald the is symbol national The", "Eagle Bald The"],
        ["The national symbol is the bald eagle", "elgae dlab"],
    ),
    "custom:character_reverse": (
        {},
        [".elgae dlab eht si lobmys lanoitan ehT", "elgaE dlaB"],
        ["The bald eagle.", "eagle bald the is It"],
    ),
    "custom:mcq_count_length": (
        {},
        [quiz(1, 2, 3, 4), quiz(1, 3, 4, 9).replace("A) ", "- ")],
        [
            quiz(1, 2, 3),
            quiz(1, 2, 2, 4),
            quiz(4, 3, 2, 1),
            quiz(1, 2, 3, 4).replace("E) e", ""),
            "Sure!\n" + quiz(1, 2, 3, 4),
            quiz(1, 2, 3, 4) + "\nThe answer is A, since it is so.",
            quiz(1, 2, 3, 4).replace("Question", "Task"),
        ],
    ),
    "custom:date_format_list": (
        {},
        ["1796-05-10, 1800-06-14, 1815-06-18", "1796-05-10,1815-06-18."],
        [
            "1796-05-10",
            "10-05-1796, 1815-06-18",
            "1796-02-30, 1815-06-18",
            "1915-06-18, 1815-06-18",
            "Lodi: 1796-05-10",
        ],
    ),
}


def reward(text, *instructions):
    metadata = {"instructions": [{"id": name, "kwargs": kwargs} for name, kwargs in instructions]}
    return InstructionVerifier().score(Prompt("p", "s", "?", metadata), Response(text)).reward


def test_each_kind_is_tested():
    assert set(CASES) == set(IFBENCH_KINDS)


@pytest.mark.parametrize("identifier", CASES)
def test_kind(identifier):
    arguments, followed, broken = CASES[identifier]
    assert [text for text in followed if reward(text, (identifier, arguments)) != 1.0] == []
    assert [text for text in broken if reward(text, (identifier, arguments)) != 0.0] == []


@pytest.mark.parametrize("identifier", CASES)
def test_each_kind_makes_prompts(identifier):
    kind = KINDS[identifier]
    for seed in range(5):
        arguments = kind.draw(random.Random(seed))
        arguments.setdefault("prompt_to_repeat", "Say hello.")
        assert kind.word(arguments)
        assert kind.check("some response", arguments) in (True, False)
        assert json.loads(json.dumps(arguments)) == arguments


CONTRADICTORY = [
    ("detectable_format:constrained_response", "language:response_language"),
    ("detectable_format:number_bullet_lists", "length_constraints:number_sentences"),
    ("length_constraints:number_paragraphs", "length_constraints:number_sentences"),
    ("length_constraints:nth_paragraph_first_word", "length_constraints:number_sentences"),
    ("detectable_format:multiple_sections", "length_constraints:number_words"),
    ("combination:repeat_prompt", "punctuation:no_comma"),
    ("count:punctuation", "punctuation:no_comma"),
    ("change_case:english_capital", "change_case:english_lowercase"),
    ("change_case:english_lowercase", "format:title_case"),
    ("keywords:forbidden_words", "keywords:existence"),
    ("startend:quotation", "startend:end_checker"),
    ("detectable_content:postscript", "startend:end_checker"),
    ("detectable_format:json_format", "startend:quotation"),
    ("format:no_whitespace", "length_constraints:number_words"),
    ("format:options", "keywords:existence"),
    ("repeat:repeat_simple", "punctuation:no_comma"),
    ("words:alphabet", "keywords:existence"),
    ("words:repeats", "keywords:frequency"),
    ("format:newline", "detectable_format:number_bullet_lists"),
]


@pytest.mark.parametrize(("first", "second"), CONTRADICTORY)
def test_contradictory_pairs_are_never_drawn(first, second):
    assert KINDS[first].claims & KINDS[second].claims
    source = InstructionSource("if", [first, second], 3)
    drawn = [len(source.prompt(index).metadata["instructions"]) for index in range(40)]
    assert drawn == [1] * 40


def test_all_kinds_can_be_drawn_together():
    source, verifier = InstructionSource("if", list(KINDS), 3), InstructionVerifier(reward="fraction")
    prompts = [source.prompt(index) for index in range(2 * len(KINDS))]
    asked = {item["id"] for prompt in prompts for item in prompt.metadata["instructions"]}
    assert asked == set(KINDS)
    for prompt in prompts:
        claims = [KINDS[item["id"]].claims for item in prompt.metadata["instructions"]]
        assert all(not one & other for one, other in itertools.combinations(claims, 2))
        assert 0 <= verifier.score(prompt, Response("Some response.")).reward <= 1
