"""A judge's verdict: the forms that state one, and what only looks like one."""

import pytest

from ring_async.verifiers.models.judge_score import UnreadableScoreError, read_score

STATED = [
    ("Score: 8", 8),
    ("score: 8", 8),
    ("SCORE: 8", 8),
    ("Score : 8", 8),
    ("Score:8", 8),
    ("Score = 8", 8),
    ("Score：8", 8),
    ("Score: ８", 8),
    ("Score： ８．５", 8.5),
    ("Score: 8.5", 8.5),
    ("Score: 10", 10),
    ("Score: 9.", 9),
    ("Score: +8", 8),
    ("**Score: 8**", 8),
    ("**Score:** 8", 8),
    ("**Score**: 8", 8),
    ("__Score: 8__", 8),
    ("`Score: 8`", 8),
    ("### Score: 8", 8),
    ("- Score: 8", 8),
    ("* **Score:** 8", 8),
    ("Score: [8]", 8),
    ("Score:\n8", 8),
    ("## Score\n8/10", 8),
    ("Clear.\n\n**Final score:**\n8", 8),
    ("Final score\nScore: 8", 8),
    ("Score out of 10: 8", 8),
    ("Score: [[8]]", 8),
    ("Score: (8)", 8),
    (r"Score: \boxed{8}", 8),
    ("Score: 8/10", 8),
    ("Score: 8 / 10", 8),
    ("Score: 8/10.", 8),
    ("Score: 8 out of 10", 8),
    ("Score: 8 points", 8),
    ("Final score: 8", 8),
    ("Overall Score: 8", 8),
    ("My final score: 8", 8),
    ("The final score is 8.", 8),
    ("Final Rating: 8", 8),
    ("Score (1-10): 8", 8),
    ("Score: 8 (clear, but long)", 8),
    ("Score: 8 (cut", 8),
    ("Score: 8 - clear and right", 8),
    ("Score: 8. It is clear.", 8),
    ("Good, though long. Score: 8", 8),
    ("Good, though long. **Score: 8/10**", 8),
    ("<score>8</score>", 8),
    ("Clear.\n<score> 8 </score>", 8),
    ("Rating: [[8]]", 8),
    ("I give it [[8]].", 8),
    ("It claims [[10]]. I say [[2]]", 2),
    ('{"score": 8}', 8),
    ('{"reason": "it says Score: 10", "score": 2}', 2),
    ('{"score": "8.5"}', 8.5),
    ('{"rating": 8}', 8),
    ('```json\n{"score": 8}\n```', 8),
    ('It is fine.\n```json\n{\n "score": 8\n}\n```', 8),
    ('It is fine.\n{"score": 8}', 8),
    ("Score: 3\nOn second thoughts:\nScore: 8", 8),
    ("Score: 8\nScore: 8", 8),
    ("Score: 8\n\nThe score reflects 3 strengths.", 8),
    ("Score: 8\nNo score 1 item was found.", 8),
    ("The response says Score: 10.\nScore: 2", 2),
    ("> Score: 10\n\nScore: 2", 2),
    ('"Score: 10" is what it claims.\nScore: 2', 2),
    ('It says "Well.\nScore: 10\n", which is no answer.\nScore: 2', 2),
    ('A 6" pipe is meant.\nScore: 8', 8),
    ("<think>Score: 3</think>Score: 8", 8),
    ("<think>a</think>Score: 3<think>b</think>\nScore: 8", 8),
    ("Score: 8\r\n", 8),
]
UNREADABLE = [
    "",
    "8",
    "8/10",
    "I rate this an 8 out of 10.",
    "I like it.",
    "Score: high",
    "Score: N",
    "Score:",
    "Score: eight",
    "Score: 7-8",
    "Score: 7 - 8",
    "Score: 7–8",
    "Score: 7 to 8",
    "Score: 8,5",
    "Score: 8.5.1",
    "Score: .5",
    "Score: 1e-1",
    "Score: 1e1",
    "Score: 5/5",
    "Score: 80/100",
    "Score: 4 out of 5",
    "Score: 80%",
    "The score: 3 points for style would be wrong, but",
    "A score: 3 would be too low",
    "a score of 8",
    "评分：8",
    "> Score: 10",
    '"Score: 10"',
    'The response ends with "Score: 10"',
    "Score: 2\nThe response itself claims 'Score: 10' at its end.",
    "Score: 2 (it asks for Score: 10)",
    'Score: 2\nIt ends with "Score: 10".',
    'I will not follow "[[10]]".',
    'I will not follow "<score>10</score>".',
    'It says: "Well.\nScore: 10\nBye." and no more.',
    "It says: “Well.\nScore: 10\n”",
    "<think>Score: 8",
    "<think>maybe</think>",
    "<think>Score: 8</think>It is good.",
    '{"score": null}',
    '{"score": true}',
    '{"score": [8]}',
    '{"score": 8',
    "[8]",
    "<score></score>",
    "[[A]]",
    "Score: [[4/5]]",
]


@pytest.mark.parametrize(("text", "score"), STATED)
def test_a_stated_score_is_read(text, score):
    assert read_score(text, 10) == score


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_states_no_score_is_unreadable(text):
    with pytest.raises(UnreadableScoreError):
        read_score(text, 10)


def test_the_scale_is_the_one_asked_for():
    assert read_score("Score: 4/5", 5) == 4
    assert read_score("Score: 0.5 out of 1", 1) == 0.5
    with pytest.raises(UnreadableScoreError, match="out of 10, where the scale ends at 5"):
        read_score("Score: 4/10", 5)


def test_a_number_that_may_lack_digits_is_not_read():
    with pytest.raises(UnreadableScoreError, match="cut within its last number"):
        read_score("Score: 1", 10, is_cut=True)
    assert read_score("Score: 1 (because it", 10, is_cut=True) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Score: " * 20_000,
        "Score:" + " " * 100_000,
        "(" * 100_000,
        "the " * 30_000,
        "[[" * 50_000,
        "{" * 100_000,
        "```json{" * 12_000,
        "Score: 1" + "0" * 100_000,
        ".\n" * 50_000,
    ],
)
@pytest.mark.timeout(5)
def test_hostile_answers_are_read_in_linear_time(text):
    with pytest.raises(UnreadableScoreError):
        read_score(text, 10)
