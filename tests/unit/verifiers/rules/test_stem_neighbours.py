r"""Science answers whose verdict is known by reasoning, kind by kind: quantities and choices."""

import pytest

from ring_async.errors import VerifierError
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.rules.stem import StemVerifier

GASES = ["oxygen", "helium", "neon", "argon"]

EQUAL_QUANTITIES = [
    ("9.8 m/s^2", "9.8\\,\\mathrm{m\\,s^{-2}}"),
    ("9.8 m/s^2", "9.8\\ \\mathrm{m/s^2}"),
    ("9.8 m/s^2", "9.8\\;\\text{m}/\\text{s}^2"),
    ("9.8 m/s^2", "$9.8$ m s⁻²"),
    ("9.8\\,\\mathrm{m\\,s^{-2}}", "9.8 m/s^2"),
    ("8.314 J/(mol K)", "8.314\\,\\mathrm{J\\,mol^{-1}\\,K^{-1}}"),
    ("8.314 J/(mol K)", "8.314 J/(mol·K)"),
    ("1000 m", "10^3 m"),
    ("1000 m", "10^{3}\\,\\text{m}"),
    ("1e6 Pa", "10^6 Pa"),
    ("1e-9 m", "10^{-9} m"),
    ("1e-9 m", "1 nm"),
    ("0.001", "10^{-3}"),
    ("3e8 m/s", "3 × 10⁸ m/s"),
    ("3e8 m/s", "3\\cdot 10^8 \\text{ m/s}"),
    ("3e8 m/s", "3.00E8 m/s"),
    ("4.5", "4\\frac12"),
    ("4.5", "4\\frac{1}{2}"),
    ("4.5", "4½"),
    ("-4.5 m", "-4\\frac12 m"),
    ("4.5 m", "4 1/2 m"),
    ("5", "5\\pm0.1"),
    ("5 V", "(5.0 \\pm 0.1) V"),
    ("5 V", "5 ± 0.1 V"),
    ("5 V", "5.0 +/- 0.1 V"),
    ("6.28", "2\\pi"),
    ("3.1416 rad", "\\pi rad"),
    ("1.5708 rad", "\\frac{\\pi}{2}\\text{ rad}"),
    ("1.732", "\\sqrt3"),
    ("1.732 m", "\\sqrt{3}\\text{ m}"),
    ("2.718", "e"),
    ("7.389", "e^2"),
    ("0.5", "\\frac{1.5}{3.0}"),
    ("12000", "12{,}000"),
    ("12000", "12\\,000"),
    ("12000 J", "12,000 J"),
    ("12000", "12 000"),
    ("-5 V", "−5 V"),
    ("-5 V", "—5 V"),
    ("5 V", "５ V"),
    ("5 m", "5 meters"),
    ("5 m", "5 m (approximately)"),
    ("5 m", "approximately 5 m"),
    ("5 m", "\\approx 5\\text{ m}"),
    ("5 m", "\\mathbf{5~m}"),
    ("5 m", "\\textbf{5 m}"),
    ("5 mph", "5 miles per hour"),
    ("5 m/s", "5 meters per second"),
    ("5 m^2", "5 square meters"),
    ("5 m^3", "5 cubic meters"),
    ("5 m^2", "5 m²"),
    ("2 $", "2 dollars"),
    ("$2", "\\$2.00"),
    ("2 dollars", "$2"),
    ("25 degC", "25^\\circ\\text{C}"),
    ("25 degC", "25 ℃"),
    ("5 ohm", "5\\ \\Omega"),
    ("5 kohm", "5000 Ω"),
    ("5 um", "5\\,\\mu\\text{m}"),
    ("5 um", "5 μm"),
    ("5 angstrom", "5 Å"),
    ("12 N", "F = 12\\text{ N}"),
    ("12 N", "F = ma = 12 N"),
    ("50%", "50\\%"),
    ("0.5", "50 percent"),
    ("5 eV", "5 ev"),
    ("1 kWh", "3.6 MJ"),
    ("30 degrees", "\\frac{\\pi}{6}\\text{ rad}"),
    ("9.81 m/s^2", "9.81\\ \\frac{\\text{m}}{\\text{s}^2}"),
    ("1e-14", "1.0 x 10^(-14)"),
    ("-0.001", "-10^{-3}"),
    ("5 m/s", "5 m s-1"),
    ("1200 kg/m^3", "1.2 g/cm3"),
    ("5 m", "5. m"),
    ("5 J", "5 kg m^2/s^2"),
    ("0.25 mol/L", "0.25 mol dm^{-3}"),
    ("-285.8 kJ/mol", "\\Delta H = -286\\ \\text{kJ/mol}"),
    ("4700 ohm", "4.7\\,\\mathrm{k\\Omega}"),
    ("300 K", "27 °C"),
    ("0.667 m", "\\frac{2}{3} m"),
    ("0.693", "\\ln 2"),
    ("25 °C", "25 degrees Celsius"),
    ("25 °C", "77 degrees Fahrenheit"),
    ("13.6 eV", "13.6 electron volts"),
    ("42%", "42"),
    ("42%", "0.42"),
    ("5 T", "50000 G"),
    ("7 pH", "7"),
    ("$0.50", "50 cents"),
]
DIFFERENT_QUANTITIES = [
    ("20.5", "4\\frac{1}{2}"),
    ("2", "4\\frac12"),
    ("9.8 m/s^2", "9.8 m/s"),
    ("9.8 m/s^2", "9.8\\,\\mathrm{m\\,s^{2}}"),
    ("1000 m", "10^2 m"),
    ("1000 m", "103 m"),
    ("1e-19 C", "2e-19 C"),
    ("5 V", "5 A"),
    ("5 m", "5"),
    ("5 m", "5 M"),
    ("5", "2.5 \\times 2"),
    ("5", "2+3"),
    ("2 $", "2 euros"),
    ("5 V", "4.5 \\pm 0.6 V"),
    ("3", "\\pi"),
    ("1", "9^{9^{9}}"),
    ("1", "99999999!"),
    ("90 degree", "\\frac{\\pi}{2}"),
    ("5 m", "5 m or 6 m"),
    ("-5 V", "5 V"),
    ("5 m", "5 to 6 m"),
    ("5 m", "5-6 m"),
    ("3e8 m/s", "3.0e8"),
    ("45 degrees", "45"),
    ("5", "nan"),
    ("5", "\\infty"),
]
RIGHT_CHOICES = [
    "\\boxed{b}",
    "\\boxed{(b)}",
    "\\boxed{Option B}",
    "\\boxed{\\textbf{(B)}}",
    "\\boxed{\\text{(B) helium}}",
    "\\boxed{B - helium}",
    "\\boxed{B – helium}",
    "\\boxed{B, helium}",
    "\\boxed{Helium}",
    "\\boxed{\\text{helium}}",
    "<answer>B</answer>",
    "<answer>B) helium</answer>",
    "<answer>The answer is B</answer>",
    "The answer is B.",
    "The answer is (B).",
    "The correct answer is **B**.",
    "The correct option is B because it is inert.",
    "Answer: B",
    "Answer: b",
    "**Answer: B**",
    "**Answer:** (B)",
    "Final Answer: B) helium",
    "ANSWER IS B",
    "The answer is: $\\boxed{B}$",
    "Option B is correct.",
    "答案是B。",
    "答案：B",
    "答案为 B",
    "Antwort: B",
    "Die Antwort ist B.",
    "Respuesta: B",
    "La respuesta es B.",
    "La réponse est B.",
    "Answer:\nB",
    "We get \\boxed{\\Delta E}.\n\nAnswer: B",
    "First I thought the answer is A. But no, the answer is B.",
    "The answer is B. Note that A is a common mistake.",
    "The answer is 'B'.",
    "The answer is \\(B\\).",
    "<answer>helium (B)</answer>",
    "<answer>B is the answer</answer>",
    "\\boxed{B \\text{ (helium)}}",
    "故选B。",
    "答案选 B",
    "正确答案是（B）",
    "정답: B",
    "B is the correct answer.",
    "I choose B",
    "I would go with option B.",
    "La respuesta correcta es B",
    "Die Antwort lautet B.",
    "Answer - B",
    "The answer is therefore B.",
    "$\\mathbf{B}$ is the answer",
    "The answer is not A but B.",
]
WRONG_CHOICES = [
    "\\boxed{A}",
    "\\boxed{A or B}",
    "\\boxed{A, B}",
    "\\boxed{ABCD}",
    "\\boxed{neon}",
    "\\boxed{Be careful}",
    "The answer is b or so, I guess",
    "The answer is a noble gas.",
    "The answer is not B",
    "Before all else.",
    "B",
    "I would take B",
    "The answer is A. Note that B is a common mistake.",
    "<think>The answer is B, or is it",
    "<think>\\boxed{B} hm, let me",
    "Answer: Between them",
    "The answer is B or C.",
    "The answer is B12.",
    "The answer is Boron.",
    "The answer is either A or B.",
    "\\boxed{2}",
    "\\boxed{not B}",
    "I choose B vitamins",
    "This is the answer",
    "The answer is not B but A.",
    "**B) helium**",
]


def judge(text, gold, **metadata):
    return StemVerifier().score(Prompt("p", "s", "?", {"answer": gold, **metadata}), Response(text)).reward


@pytest.fixture(scope="module", autouse=True)
def _units():
    """The registry of units is built once, before any test is timed."""
    judge("\\boxed{100 cm}", "1 m")


@pytest.mark.parametrize(("gold", "answer"), EQUAL_QUANTITIES)
def test_equal_quantities(gold, answer):
    assert judge(f"\\boxed{{{answer}}}", gold) == 1.0


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT_QUANTITIES)
def test_different_quantities(gold, answer):
    assert judge(f"\\boxed{{{answer}}}", gold) == 0.0


@pytest.mark.parametrize("text", RIGHT_CHOICES)
@pytest.mark.parametrize("gold", ["B", "b", "helium", 1])
def test_right_choice(text, gold):
    assert judge(text, gold, choices=GASES) == 1.0


@pytest.mark.parametrize("text", WRONG_CHOICES)
@pytest.mark.parametrize("gold", ["B", 1])
def test_wrong_choice(text, gold):
    assert judge(text, gold, choices=GASES) == 0.0


@pytest.mark.parametrize(
    ("gold", "answer", "wanted"),
    [
        ("AC", "A and C", 1.0),
        ("AC", "C, A", 1.0),
        ("AC", "(A), (C)", 1.0),
        ("AC", "AC", 1.0),
        ("AC", "A", 0.0),
        ("AC", "A, B, C", 0.0),
        (["A", "C"], "A, C", 1.0),
        ("A, C", "AC", 1.0),
        ("2", "2", 1.0),
        ("2", "B", 1.0),
        ("2", "A", 0.0),
        (0, "A", 1.0),
        (0, "B", 0.0),
        (3, "D", 1.0),
        (1, "1", 0.0),
    ],
)
def test_letters_labels_and_indices(gold, answer, wanted):
    assert judge(f"\\boxed{{{answer}}}", gold, choices=GASES) == wanted


@pytest.mark.parametrize(
    ("gold", "answer", "wanted"),
    [
        ("DNA", "DNA", 1.0),
        ("DNA", "AND", 0.0),
        ("CO", "CO", 1.0),
        ("CO", "OC", 0.0),
        ("CO", "Co", 0.0),
        ("NaCl", "NaCl", 1.0),
        ("NaCl", "\\text{NaCl}", 1.0),
        ("NaCl", "KCl", 0.0),
        ("H2O", "H_2O", 1.0),
        ("H_2O", "\\mathrm{H_{2}O}", 1.0),
        ("H2O", "H₂O", 1.0),
        ("H2O", "H2O2", 0.0),
        ("photosynthesis", "Photosynthesis", 1.0),
        ("photosynthesis", "respiration", 0.0),
        ("mitochondria", "the mitochondria", 1.0),
        ("Fe^{3+}", "Fe3+", 1.0),
        ("Fe^{3+}", "Fe^{2+}", 0.0),
        ("\\ce{H2O}", "H2O", 1.0),
        ("H2O", "\\ce{H2O}", 1.0),
    ],
)
def test_formulas_and_words_are_compared_as_written(gold, answer, wanted):
    assert judge(f"\\boxed{{{answer}}}", gold) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The answer is 5 m.", 1.0),
        ("**Answer:** 5 m", 1.0),
        ("Answer: 500 cm", 1.0),
        ("The answer is 6 m.", 0.0),
        ("5 m", 0.0),
    ],
)
def test_a_quantity_may_be_announced(text, wanted):
    assert judge(text, "5 m") == wanted


@pytest.mark.parametrize(
    ("gold", "choices"), [("E", GASES), (7, GASES), ("xenon", GASES), ([], GASES), ("5 blorps", []), ("?", [])]
)
def test_a_reference_that_means_nothing_is_the_prompts_failure(gold, choices):
    with pytest.raises(VerifierError, match="bad_prompt"):
        judge("\\boxed{B}", gold, choices=choices)
