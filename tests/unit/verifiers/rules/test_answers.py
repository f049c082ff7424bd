import pytest

from ring_async.verifiers.rules.answers import boxed_answer, last_number, tagged_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>5</answer>", "5"),
        ("<answer> 5\n</answer>", "5"),
        ("<answer>4</answer> no, <answer>5</answer>", "5"),
        ("<ANSWER>5</Answer>", "5"),
        ("<answer>4 <answer>5</answer>", "5"),
        ("<answer>5</answer> and <answer>6", "5"),
        ("<answer></answer>", ""),
        ("<answer>5", None),
        ("5</answer>", None),
        ("", None),
    ],
)
def test_tagged_answer(text, answer):
    assert tagged_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{5}", "5"),
        (r"so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{4} or rather \boxed{5}", "5"),
        (r"\boxed{5} and \boxed{6", "5"),
        (r"\fbox{7}", "7"),
        (r"\boxed 7", "7"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{}", ""),
        (r"\boxed{5", None),
        ("5", None),
    ],
)
def test_boxed_answer(text, answer):
    assert boxed_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("first 3, then 4.", "4"),
        ("it costs 1,234.50 in all", "1234.50"),
        ("-7", "-7"),
        ("6.02e23", "6.02e23"),
        ("x2", None),
        ("none", None),
    ],
)
def test_last_number(text, answer):
    assert last_number(text) == answer
