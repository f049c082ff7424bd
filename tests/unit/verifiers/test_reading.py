"""The parts of `verifiers.reading`, each by itself."""

import math
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_async.verifiers.reading.arithmetic import NotClosedError, TooLargeError, approximate, is_same_number
from ring_async.verifiers.reading.characters import plain_characters
from ring_async.verifiers.reading.expression import MAX_DEPTH, parse_expression
from ring_async.verifiers.reading.formulas import agree_at_points, canonical
from ring_async.verifiers.reading.latex import plain_latex, squeezed
from ring_async.verifiers.reading.numerals import grouped_reading, plain_numbers
from ring_async.verifiers.reading.regions import interval_of, region_of
from ring_async.verifiers.reading.shapes import list_items, shape_of
from ring_async.verifiers.reading.spelled import spelled_number
from ring_async.verifiers.reading.tokens import NotAnExpressionError
from ring_async.verifiers.reading.units import pint_spelling, plain_unit, ratio
from ring_async.verifiers.reading.work import OutOfWorkError, cpu_budget, is_affordable


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_ascii_stays_as_it_is(text):
    assert plain_characters(text) == text


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    plain = plain_numbers(plain_latex(text))
    squeezed(plain)
    shape_of(plain)
    region_of(plain)
    is_affordable(plain)
    try:
        parse_expression(plain)
    except NotAnExpressionError:
        pass


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_rational_arithmetic_is_exact(left, right):
    for sign, value in (("+", left + right), ("-", left - right), ("\\cdot", left * right)):
        text = f"({left.numerator}/{left.denominator}) {sign} ({right.numerator}/{right.denominator})"
        assert approximate(parse_expression(text)) == value


@given(st.integers(0, 10**9), st.integers(1, 998), st.integers(1, 500))
def test_a_mixed_number_is_a_sum(whole, above, more):
    below = above + more
    mixed = plain_numbers(f"{whole} {above}/{below}")
    assert approximate(parse_expression(mixed)) == whole + Fraction(above, below)
    assert approximate(parse_expression(f"-{whole}\\frac{{{above}}}{{{below}}}")) == -(whole + Fraction(above, below))


@given(st.integers(0, 99), st.from_regex(r"[0-9]{0,4}", fullmatch=True), st.from_regex(r"[0-9]{1,4}", fullmatch=True))
def test_a_repeating_decimal_is_its_series(whole, start, period):
    text = plain_numbers(f"{whole}.{start}\\overline{{{period}}}")
    head = Fraction(int(f"{whole}{start}"), 10 ** len(start))
    tail = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(start))
    assert approximate(parse_expression(text)) == head + tail


@given(st.integers(0, 10**15))
def test_groups_of_digits_are_joined(number):
    assert grouped_reading(f"{number:,}") == str(number)
    assert plain_latex(f"{number:,}".replace(",", "\\,")) == str(number)
    assert plain_latex(f"{number:,}".replace(",", "{,}")) == str(number)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2^{10}", 1024),
        ("2^10", 1024),
        ("2^{3^2}", 512),
        ("2^3^2", 512),
        ("-2^2", -4),
        ("5!!", 15),
        ("(3!)!", 720),
        ("\\binom{10}{3}", 120),
        ("C(5,2)", 10),
        ("\\sqrt[3]{-27}", -3),
        ("\\sqrt{\\frac{9}{4}}", Fraction(3, 2)),
        ("|{-3}|", 3),
        ("\\lfloor 2.7 \\rfloor", 2),
        ("\\lceil 2.1 \\rceil", 3),
        ("7^{2023} \\bmod 10", 3),
        ("{1 \\over 4}", Fraction(1, 4)),
        ("\\frac12", Fraction(1, 2)),
        ("1.5 \\times 10^{-3}", Fraction(3, 2000)),
        ("2(3+4)", 14),
        ("6/2/3", 1),
        ("(-1)^{2025}", -1),
        ("0^{99999999}", 0),
        ("1^{99999999}", 1),
    ],
)
def test_exact_values(text, value):
    assert approximate(parse_expression(text)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\\pi", math.pi),
        ("e^2", math.e**2),
        ("\\ln 10", math.log(10)),
        ("\\log_2 10", math.log2(10)),
        ("\\lg 1000", 3.0),
        ("\\sin 30^\\circ", 0.5),
        ("\\cos\\frac{\\pi}{3}", 0.5),
        ("\\sin^2 1", math.sin(1) ** 2),
        ("\\tan^{-1} 1", math.pi / 4),
        ("2^{0.5}", math.sqrt(2)),
        ("sqrt(2)/2", math.sqrt(2) / 2),
        ("\\exp(1)", math.e),
    ],
)
def test_real_values(text, value):
    assert float(approximate(parse_expression(text))) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9}}",
        "10^{10^{10^{10}}}",
        "99999999!",
        "\\binom{99999999}{49999999}",
        "e^{e^{e^{9}}}",
        "((9!)!)!",
        "2^{-99999999}",
    ],
)
def test_what_is_too_large_is_said_at_once(text):
    started = time.process_time()
    with pytest.raises(TooLargeError):
        approximate(parse_expression(text))
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize("text", ["x", "\\frac{1}{0}", "0^0", "\\ln 0", "(-1)!", "\\tan^{2}(y)"])
def test_what_has_no_value(text):
    with pytest.raises(NotClosedError):
        approximate(parse_expression(text))


@pytest.mark.parametrize(
    "text", ["", "2 3", "(", "1+", "\\frac{1}", "a_1", "(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1)]
)
def test_what_is_no_formula(text):
    with pytest.raises(NotAnExpressionError):
        parse_expression(text)


def test_a_small_difference_is_a_difference():
    for left, right in (("e^{-1000}", "0"), ("1+10^{-40}", "1"), ("e^{-1000}", "e^{-1001}"), ("2^{-1000}", "2^{-999}")):
        assert not is_same_number(parse_expression(left), parse_expression(right))
    assert not is_same_number(parse_expression("e^{\\pi\\sqrt{163}}"), parse_expression("262537412640768744"))
    assert is_same_number(parse_expression("\\sqrt{2}-\\sqrt{2}"), parse_expression("0"))


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("x^2-1", "(x-1)(x+1)", True),
        ("\\sin 2x", "2\\sin x\\cos x", True),
        ("x^2", "x^3", False),
        ("x", "y", False),
        ("|x|", "x", None),
        ("\\sqrt{x^2}", "x", None),
    ],
)
def test_values_at_points(left, right, same):
    assert agree_at_points(parse_expression(left), parse_expression(right)) is same


def test_a_form_without_order():
    assert canonical(parse_expression("a+b-c")) == canonical(parse_expression("b-c+a"))
    assert canonical(parse_expression("a b/c")) == canonical(parse_expression("b \\cdot a/c"))
    assert canonical(parse_expression("a-b")) != canonical(parse_expression("b-a"))


@pytest.mark.parametrize(
    "text",
    [
        "2^{2024}",
        "10^{1000}",
        "x^{100}",
        "x^{2024}",
        "n!",
        "(x+1)^{10}",
        "\\binom{n}{k}",
        "(a+b)^{40}",
        "\\sum_{k=1}^{10} k^{2}",
        "\\sum_{k=0}^{n-1} 2^k",
    ],
)
def test_what_is_affordable(text):
    assert is_affordable(text)


@pytest.mark.parametrize(
    "text",
    [
        "9^{9 \\cdot 9^9}",
        "\\binom{n}{5000}",
        "(a+b+c+d+e)^{40}",
        "(x+1)^{99999999}",
        "99999999_{\\infty}!!",
        "x^{9^{9^9}}",
        "\\begin{pmatrix}1&2^{9^{9}}\\\\1&1\\end{pmatrix}",
        "{99999999}{!}",
        "\\sum_{k=1}^{9} 9^{9^{9^k}}",
        "\\prod_{k=1}^{9} (k!)!",
        "\\frac{1}{99999999!}",
    ],
)
def test_what_is_not_affordable(text):
    assert not is_affordable(text)


def test_the_budget_ends_what_goes_on():
    def go_on():
        while True:
            try:
                sum(range(1000))
            except Exception:  # a library's own net does not catch it
                pass

    with pytest.raises(OutOfWorkError), cpu_budget(0.02):
        go_on()


def test_the_budget_leaves_no_timer():
    with cpu_budget(0.02):
        pass
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass


@pytest.mark.parametrize(
    ("text", "kind", "parts"),
    [
        ("5", "value", ("5",)),
        ("1, 2", "list", ("1", "2")),
        ("1 \\text{ and } 2", "list", ("1", "2")),
        ("\\{1, 2\\}", "set", ("1", "2")),
        ("(1, 2)", "tuple", ("1", "2")),
        ("[1, 2]", "square", ("1", "2")),
        ("[1, 2)", "half", ("1", "2")),
        ("(0,1)\\cup(2,3)", "union", ("(0,1)", "(2,3)")),
        ("(1,2),(3,4)", "list", ("(1,2)", "(3,4)")),
        ("(x+1)(x-1)", "value", ("(x+1)(x-1)",)),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "matrix", ("1", "2", "3", "4")),
        ("x \\in [0,1]", "square", ("0", "1")),
        ("f(1,2)", "value", ("f(1,2)",)),
    ],
)
def test_shapes(text, kind, parts):
    shape = shape_of(text)
    assert shape.kind == kind
    assert tuple(part.strip() for part in shape.parts) == parts


@pytest.mark.parametrize(
    ("text", "brackets", "ends"),
    [
        ("x<3", "()", ("-\\infty", "3")),
        ("3>x", "()", ("-\\infty", "3")),
        ("x\\ge 3", "[)", ("3", "\\infty")),
        ("0<x\\le 5", "(]", ("0", "5")),
        ("5\\ge x>0", "(]", ("0", "5")),
    ],
)
def test_inequalities_as_intervals(text, brackets, ends):
    interval = interval_of(text)
    assert (interval.brackets, interval.parts) == (brackets, ends)


@pytest.mark.parametrize("text", ["5", "x", "x+1<2", "0<x>1", "1<2", "x=3"])
def test_what_is_no_interval(text):
    assert interval_of(text) is None


def test_plus_and_minus_are_two_items():
    assert list_items("2 \\pm 3") == ["2 + 3", "2 - 3"]
    assert list_items("x = \\pm 3") == ["x =3", "x = - 3"] or list_items("x = \\pm 3")[1].replace(" ", "") == "x=-3"


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("\\text{m\\,s}^{-2}".replace("\\,", " "), "m * s**(-2)"),
        ("\\text{km/h}", "km/h"),
        ("miles per hour", "miles/hour"),
        ("square meters", "meters**(2)"),
        ("\\Omega", "ohm"),
        ("^\\circ\\text{C}", "degC"),
    ],
)
def test_units_in_pints_spelling(text, spelled):
    assert pint_spelling(plain_unit(text)) == spelled


def test_ratios_of_units():
    assert ratio("km", "m") == pytest.approx(1000)
    assert ratio("hour", "min") == pytest.approx(60)
    assert ratio("m", "s") is None
    assert ratio("blorp", "m") is None
    assert ratio("degC", "kelvin") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("三", "3"),
            ("二十五", "25"),
            ("一百零三", "103"),
            ("十", "10"),
            ("两万", "20000"),
            ("five", "5"),
            ("x", None),
        ),
        *(
            ("一亿零三万", "100030000"),
            ("二〇二〇", "2020"),
            ("三又二分之一", "3\\frac{1}{2}"),
            ("百分之三十五", "35\\%"),
        ),
        *(
            ("nineteen hundred", "1900"),
            ("two thirds", "\\frac{2}{3}"),
            ("third", None),
            ("a hundred", "100"),
            ("a", None),
        ),
    ],
)
def test_spelled_numbers(text, value):
    assert spelled_number(text) == value
