import pytest

from ring_async.errors import VerifierError
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.rules.quantities import Quantity, read_quantity
from ring_async.verifiers.rules.stem import StemVerifier


@pytest.fixture(scope="module", autouse=True)
def _units():
    """The registry of units is built once, before any test is timed."""
    StemVerifier().score(Prompt("p", "s", "?", {"answer": "1 m"}), Response("\\boxed{100 cm}"))


def reward(answer, gold, *, options=None, **metadata):
    prompt = Prompt("p", "s", "?", {"answer": gold, **metadata})
    return StemVerifier(**(options or {})).score(prompt, Response(f"\\boxed{{{answer}}}")).reward


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("9.81 m/s^2", Quantity(9.81, 3, "m/s**(2)")),
        ("3.0\\times 10^{8}\\,\\text{m/s}", Quantity(3e8, 2, "m/s")),
        ("25 °C", Quantity(25.0, 2, "degC")),
        ("6.02×10²³ mol⁻¹", Quantity(6.02e23, 3, "mol**(-1)")),
        ("-4.5e-3 kg", Quantity(-0.0045, 2, "kg")),
        ("1,200", Quantity(1200.0, 2, "")),
        ("3/4", Quantity(0.75, 1, "")),
        ("\\frac{3}{4}", Quantity(0.75, 1, "")),
        ("v = 3 m/s", Quantity(3.0, 1, "m/s")),
        ("0.050 L", Quantity(0.05, 2, "L")),
        ("1.00e2", Quantity(100.0, 3, "")),
        ("10 \\mu m", Quantity(10.0, 1, "µm")),
    ],
)
def test_read_quantity(text, quantity):
    assert read_quantity(text) == quantity


@pytest.mark.parametrize("text", ["", "abc", "5 __import__", "9**9**9", "5 m; 6 m", "1/0", "5 " + "m" * 200, "5 m^999"])
def test_what_is_no_quantity(text):
    assert read_quantity(text) is None


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("10 m/s", "36 km/h"),
        ("298.15 K", "25 degC"),
        ("50 mL", "0.05 L"),
        ("1.602e-19 J", "1 eV"),
        ("12 kg m s^{-2}", "12 N"),
        ("0.5", "50%"),
        ("50%", "0.5"),
        ("9.8 m/s^2", "9.81 m/s^2"),
        ("0", "0"),
    ],
)
def test_equal_quantities(answer, gold):
    assert reward(answer, gold) == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("10 km/h", "36 km/h"), ("9.6 m/s^2", "9.81 m/s^2"), ("5 m", "5 s"), ("5 m", "5"), ("5", "5 m"), ("-5 m", "5 m")],
)
def test_different_quantities(answer, gold):
    assert reward(answer, gold) == 0.0


def test_units_may_be_left_out_on_request():
    assert reward("5", "5 m", options={"require_units": False}) == 1.0


def test_tolerances():
    assert reward("105", "100", tolerance=0.05) == 1.0
    assert reward("106", "100", tolerance=0.05) == 0.0
    assert reward("0.01", "0", absolute_tolerance=0.02) == 1.0
    assert reward("100", "100", tolerance=0.0) == 1.0


def test_significant_figures():
    assert reward("3.1416", "3.14", significant_figures=3) == 1.0
    assert reward("3.15", "3.14", significant_figures=3) == 0.0
    assert reward("3.1416", "3.14", significant_figures=3, exact_figures=True) == 0.0
    assert reward("3.14", "3.14", significant_figures=3, exact_figures=True) == 1.0


@pytest.mark.parametrize("answer", ["B", "(B)", "b) helium".upper(), "B. helium", "\\text{B}", "helium", "Helium."])
def test_right_choice(answer):
    assert reward(answer, "B", choices=["oxygen", "helium"]) == 1.0


@pytest.mark.parametrize("answer", ["A", "C", "oxygen", "neon", "A, B"])
def test_wrong_choice(answer):
    assert reward(answer, "B", choices=["oxygen", "helium"]) == 0.0


def test_several_choices():
    assert reward("A, C", "AC") == 1.0
    assert reward("C and A", "AC") == 1.0
    assert reward("A", "AC") == 0.0


def test_a_choice_may_stand_in_a_sentence():
    prompt = Prompt("p", "s", "?", {"answer": "C"})
    assert StemVerifier().score(prompt, Response("So the answer is (C).")).reward == 1.0
    assert StemVerifier().score(prompt, Response("Cold, clearly.")).reward == 0.0


@pytest.mark.parametrize("gold", [None, "", "five m", "5 blorps"])
def test_a_prompt_that_cannot_be_judged_is_a_failure(gold):
    with pytest.raises(VerifierError, match="bad_prompt"):
        reward("5", gold)
