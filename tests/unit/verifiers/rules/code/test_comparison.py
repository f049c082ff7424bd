"""Outputs and values compared: what is the same, and what only looks it."""

import math

import pytest

from ring_async.sandbox.harness import SET_KEY
from ring_async.verifiers.rules.code.comparison import (
    UnreadableValueError,
    in_any_order,
    is_same_text,
    is_same_value,
    plain,
    read_value,
)

SAME_TEXT = [
    ("1", "1", 0),
    ("1\n", "1", 0),
    ("1  \n2\n\n", "1\n2", 0),
    ("6\r\n", "6", 0),
    ("6", "6\r\n", 0),
    ("", "\n", 0),
    ("1.0000001", "1.0", 1e-6),
    ("YES 1.0000001", "YES 1.0", 1e-6),
    ("5.0", "5", 1e-6),
    ("4.9999999", "5", 1e-6),
    ("1e3", "1000.0", 1e-6),
    ("nan", "NaN", 1e-6),
    ("1.0\n2.0", "1.0000001\n2.0000001", 1e-6),
    ("+5", "5", 1e-6),
    ("007", "7", 1e-6),
    (".5", "0.5", 1e-6),
]
OTHER_TEXT = [
    ("1", "2", 0),
    ("5.0", "5", 0),
    ("a  b", "a b", 0),
    (" a", "a", 0),
    ("Yes", "YES", 0),
    ("1\n2", "1\n\n2", 0),
    ("0.3333333333", "0.3333333", 0),
    ("1000000008", "1000000007", 1e-6),
    ("50000000000000001", "50000000000000000", 1e-6),
    ("-1000000007", "1000000007", 1e-6),
    ("1.0 2.0", "1.0\n2.0", 1e-6),
    ("1.0\n2.0", "1.0 2.0", 1e-6),
    ("1.1", "1.0", 1e-6),
    ("1_0", "10", 1e-6),
    ("1e999", "inf", 1e-6),
    ("inf", "1e999", 1e-6),
    ("0x10", "16", 1e-6),
    ("١", "1.0", 1e-6),
    ("1.0 ", "", 1e-6),
    ("", "0.0", 1e-6),
    ("abc", "abd", 1e-6),
]


@pytest.mark.parametrize(("printed", "expected", "tolerance"), SAME_TEXT)
def test_the_same_text(printed, expected, tolerance):
    assert is_same_text(printed, expected, tolerance)


@pytest.mark.parametrize(("printed", "expected", "tolerance"), OTHER_TEXT)
def test_other_text(printed, expected, tolerance):
    assert not is_same_text(printed, expected, tolerance)


@pytest.mark.parametrize(
    ("value", "expected", "tolerance"),
    [
        (1, 1.0, 0),
        (1, True, 0),
        ([1, [2]], [1, [2]], 0),
        ({"a": [1]}, {"a": [1]}, 0),
        (math.nan, math.nan, 0),
        (math.inf, math.inf, 0),
        ([math.nan], [math.nan], 1e-6),
        (0.1 + 0.2, 0.3, 1e-6),
        ([0.1 + 0.2, "a"], [0.3, "a"], 1e-6),
        (5, 5.0000001, 1e-6),
        (10**400, 10**400, 1e-6),
        ({SET_KEY: [10, 9]}, [9, 10], 0),
        ({SET_KEY: [10, 9]}, [10, 9], 0),
        ({SET_KEY: [[1, 2], [3]]}, [[1, 2], [3]], 0),
        ({SET_KEY: []}, [], 0),
        ([{SET_KEY: [10, 9]}], [[9, 10]], 0),
    ],
)
def test_the_same_value(value, expected, tolerance):
    assert is_same_value(value, expected, tolerance)


@pytest.mark.parametrize(
    ("value", "expected", "tolerance"),
    [
        (5, "5", 0),
        ("ab", ["a", "b"], 0),
        (0.1 + 0.2, 0.3, 0),
        (1000000008, 1000000007, 1e-6),
        ([50000000000000001], [50000000000000000], 1e-6),
        (10**400, 1.0, 1e-6),
        (math.inf, 1.0, 1e-6),
        (math.inf, -math.inf, 1e-6),
        (math.nan, 1.0, 1e-6),
        (None, 0, 1e-6),
        (None, 0.0, 1e-6),
        ("1.0", 1.0, 1e-6),
        ([1, 2], [2, 1], 0),
        ([10, 9], [9, 10], 0),
        ([1], [1, 2], 0),
        ({"a": 1}, {"a": 1, "b": 2}, 0),
        ({SET_KEY: [1, 2, 3]}, [3, 1, 2], 0),
        ({SET_KEY: [1]}, {"a": 1}, 0),
    ],
)
def test_another_value(value, expected, tolerance):
    assert not is_same_value(value, expected, tolerance)


def test_values_are_read_as_they_were_told():
    assert read_value('{"a": [1, null, NaN, "x"]}')["a"][1] is None
    assert read_value("12") == 12
    assert read_value("1" * 5000) != read_value("1" * 5001)
    assert read_value("1" * 5000) == read_value("1" * 5000)
    for text in ("", "{", "nothing", "[" * 100_000):
        with pytest.raises(UnreadableValueError):
            read_value(text)


def test_expected_values_become_plain():
    assert plain({1: (2, [True, None])}) == {"1": [2, [True, None]]}
    with pytest.raises(TypeError, match="object is not plain data"):
        plain([object()])


def test_order_can_be_disregarded():
    assert in_any_order([3, "a", [1]]) == in_any_order(["a", [1], 3])
    assert in_any_order({SET_KEY: [2, 1]}) == in_any_order([1, 2])
    assert in_any_order("ba") == "ba"
