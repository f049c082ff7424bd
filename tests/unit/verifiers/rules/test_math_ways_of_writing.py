r"""Ways in which people and data sets write one value, kind by kind: words, times, families, constants, vectors, sets.

Every row is (reference, what stands in the box). None of the expected values was taken from a run.
"""

import pytest

from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.rules.math import MathVerifier

EQUAL = {
    "numbers in words": [
        ("\\frac{1}{2}", "二分之一"),
        ("50%", "百分之五十"),
        ("-3", "负三"),
        ("2.5", "二点五"),
        ("3", "三个"),
        ("1000", "一千"),
        ("30000", "3万"),
        ("150000000", "1.5亿"),
        ("25", "twenty-five"),
        ("102", "one hundred and two"),
        ("-3", "minus three"),
        ("\\frac34", "three quarters"),
        ("\\frac34", "three-fourths"),
        ("\\frac12", "half"),
        ("2.5", "two and a half"),
        ("1000000", "one million"),
        ("5 million", "5{,}000{,}000"),
        ("2.5 billion", "2.5 \\times 10^9"),
        ("\\$3.5\\text{ million}", "3{,}500{,}000"),
        ("3", "3rd"),
        ("3", "3^{\\text{rd}}"),
        ("3 and 1/2", "3.5"),
    ],
    "sentences": [
        ("6", "答案是6"),
        ("6", "6。"),
        ("circle", "a circle"),
        ("parabola", "The graph is a parabola"),
        ("true", "The statement is true"),
        ("infinitely many", "\\text{infinitely many solutions}"),
        ("无解", "no solution"),
        ("5, 6", "\\text{(a) } 5 \\text{ (b) } 6"),
        ("5, 6", "(1) 5; (2) 6"),
        ("\\textbf{(C)}\\ 12", "12"),
        ("x=2 (double root)", "2"),
        ("5:3", "5 to 3"),
        ("\\{(1,2)\\}", "(1,2)"),
    ],
    "times and dates": [
        ("3:30", "3:30 PM"),
        ("3:30 \\text{ p.m.}", "3:30 PM"),
        ("15:30", "3:30 PM"),
        ("3:30 PM", "15:30"),
        ("12:30 AM", "00:30"),
        ("12:00 PM", "noon"),
        ("midnight", "12:00 AM"),
        ("5 PM", "17:00"),
        ("7", "7 o'clock"),
        ("下午3点", "15:00"),
        ("3点半", "3:30"),
        ("July 4, 2020", "2020-07-04"),
        ("July 4", "July 4th"),
        ("2020年7月4日", "July 4, 2020"),
        ("May 1", "1 May"),
        ("Thursday, July 4", "July 4"),
    ],
    "amounts in two units": [
        ("2 \\text{ hours } 30 \\text{ minutes}", "2.5 hours"),
        ("2\\text{ h }30\\text{ min}", "150 min"),
        ("2 hours 30 minutes", "2.5"),
        ("5 ft 3 in", "63 inches"),
        ("1 m 20 cm", "1.2 m"),
        ("2小时30分钟", "150分钟"),
        ("3元5角", "3.5元"),
        ("45^{\\circ}30'", "45.5^\\circ"),
        ("45^\\circ 30' 36''", "45.51^\\circ"),
    ],
    "money and units": [
        ("50 cents", "\\$0.50"),
        ("\\$0.50", "50 cents"),
        ("¥100", "100元"),
        ("500", "USD 500"),
        ("500", "\\$500 USD"),
        ("500", "Rs. 500"),
        ("12", "12平方厘米"),
        ("12\\text{cm}^2", "12平方厘米"),
        ("60^o", "60^\\circ"),
    ],
    "families": [
        ("\\frac{\\pi}{4}+k\\pi, k\\in\\mathbb{Z}", "x=\\frac{\\pi}{4}+n\\pi, n\\in\\mathbb{Z}"),
        ("\\frac{\\pi}{4}+k\\pi, k\\in\\mathbb{Z}", "\\frac{5\\pi}{4}+k\\pi (k\\in Z)"),
        ("x=k\\pi, k\\in\\mathbb{Z}", "x = 2k\\pi \\text{ or } x=\\pi+2k\\pi, k\\in\\mathbb{Z}"),
        ("k\\pi, k \\in \\mathbb Z", "n\\pi \\text{ where } n \\text{ is an integer}"),
        ("\\pm\\frac{\\pi}{3}+2k\\pi, k\\in\\mathbb{Z}",
         "\\frac{\\pi}{3}+2k\\pi, \\frac{5\\pi}{3}+2k\\pi, k\\in\\mathbb{Z}"),
        ("180^\\circ k, k\\in\\mathbb{Z}", "k\\pi, k\\in\\mathbb{Z}"),
        ("\\{x\\mid x=2k,k\\in\\mathbb{Z}\\}", "\\{2n : n \\in \\mathbb{Z}\\}"),
        ("2k+1, k\\in\\mathbb{Z}", "2k-1, k\\in\\mathbb{Z}"),
    ],
    "constants of integration": [
        ("x^2+C", "x^2+c"),
        ("x^2+C", "x^2+K"),
        ("\\frac{1}{2}\\sin^2 x + C", "-\\frac12 \\cos^2 x + C"),
        ("\\sin^2 x + C", "-\\frac12\\cos 2x + C"),
        ("y=x^2+C", "y=x^2+C_1"),
        ("x^2+C", "x^2+C, C\\in\\mathbb{R}"),
        ("x^2+C", "x^2+C \\text{ where } C \\text{ is a constant}"),
    ],
    "vectors and matrices": [
        ("(2,3)", "2\\mathbf{i}+3\\mathbf{j}"),
        ("2\\mathbf{i}+3\\mathbf{j}", "\\langle 2,3\\rangle"),
        ("\\langle 1,-1,2\\rangle", "\\hat{i}-\\hat{j}+2\\hat{k}"),
        ("A(1,2)", "(1,2)"),
        ("(1,2)", "P(1, 2)"),
        ("A(1,2), B(3,4)", "(1,2), (3,4)"),
        ("\\begin{pmatrix} 1/2 & 0 \\\\ 0 & 1/2 \\end{pmatrix}",
         "\\frac{1}{2}\\begin{pmatrix} 1 & 0 \\\\ 0 & 1 \\end{pmatrix}"),
        ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "[[1,2],[3,4]]"),
        ("\\begin{pmatrix}2&4\\end{pmatrix}", "\\begin{pmatrix}2\\\\4\\end{pmatrix}^T"),
        ("-\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}-1\\\\-2\\end{pmatrix}"),
    ],
    "sets of numbers": [
        ("(-\\infty,-2)\\cup(2,\\infty)", "x<-2, x>2"),
        ("[0,1) \\cup (1, \\infty)", "x\\ge 0, x\\neq 1"),
        ("(1, 2) \\cup (3, 4)", "(1,2),(3,4)"),
        ("(-\\infty,0)", "\\mathbb{R}^-"),
        ("(0,\\infty)", "\\mathbb{R}_{>0}"),
        ("\\mathbb{R}^+", "x>0"),
        ("[0,\\infty)", "\\mathbb{R}_{\\ge 0}"),
        ("x\\ne 0", "\\mathbb{R}^*"),
        ("(-\\infty,1)\\cup(1,2)\\cup(2,\\infty)", "x\\ne1,2"),
        ("x>1", "x>1, x>0"),
        ("\\mathbb{Z}", "\\Z"),
    ],
    "bases, residues, names": [
        ("0x1A", "1A_{16}"),
        ("101_2", "0b101"),
        ("110_{two}", "6_{10}"),
        ("(312)_5", "312_5"),
        ("x\\equiv 1 \\pmod 3", "x\\equiv 4\\pmod 3"),
        ("x\\equiv 1 \\pmod 3", "1 \\pmod{3}"),
        ("x=1, x=-2", "x_1 = 1, x_2 = -2"),
        ("2\\operatorname{cis} 60^\\circ", "1+\\sqrt3 i"),
        ("4\\surd 3", "4\\sqrt3"),
        ("\\frac{1}{3}", "0.3̄"),
        ("\\frac{4}{33}", "0.1̇2̇"),
    ],
}  # fmt: skip

DIFFERENT = {
    "numbers in words": [
        ("3", "三角形"),
        ("1", "一样"),
        ("2", "second"),
        ("\\frac13", "third"),
        ("5 million", "5"),
        ("5 million", "5 thousand"),
        ("4", "for"),
    ],
    "sentences": [
        ("even", "none of them is even"),
        ("even", "not even"),
        ("\\textbf{(C)}\\ 12", "(D) 12"),
        ("\\{(1,2)\\}", "(2,1)"),
        ("true", "it is not true"),
        ("true", "The statement is not true"),
        ("\\text{infinitely many}", "\\infty"),
        ("5, 6", "\\text{(a) } 6 \\text{ (b) } 5 \\text{ (c) } 7"),
    ],
    "times and dates": [
        ("3:30 PM", "3:30 AM"),
        ("3:30 PM", "4:30 PM"),
        ("3:30 PM", "3:31"),
        ("3:30", "3.5"),
        ("2", "2:00"),
        ("July 4", "July 5"),
        ("July 4", "4"),
        ("July 4, 2020", "July 4, 2021"),
    ],
    "amounts in two units": [
        ("2 hours 30 minutes", "150"),
        ("2 hours 30 minutes", "2 hours 31 minutes"),
        ("3 apples and 2 pears", "5"),
    ],
    "money": [("£3", "\\$3"), ("\\$5", "5 cents"), ("\\$5", "5 yuan")],
    "families": [
        ("\\frac{\\pi}{4}+k\\pi, k\\in\\mathbb{Z}", "\\frac{\\pi}{4}+2k\\pi, k\\in\\mathbb{Z}"),
        ("2k, k\\in\\mathbb{Z}", "2k+1, k\\in\\mathbb{Z}"),
        ("k\\pi", "n\\pi"),
    ],
    "constants of integration": [
        ("x^2+C", "x^2"),
        ("x^2+C", "x^3+C"),
        ("x^2+C", "x^2+D"),
        ("x^2+C", "x^2+Cx"),
        ("x^2+3", "x^2+C"),
        ("A+C", "A+K"),
        ("x+C", "2x+C"),
        ("\\ln|x|+C", "\\ln x + C"),
    ],
    "vectors and matrices": [
        ("2\\mathbf{i}+3\\mathbf{j}", "3\\mathbf{i}+2\\mathbf{j}"),
        ("C(5,2)", "(5,2)"),
        ("(5,2)", "10"),
        ("\\begin{pmatrix}2&4\\end{pmatrix}", "2\\begin{pmatrix}1&3\\end{pmatrix}"),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "[[1,3],[2,4]]"),
    ],
    "sets of numbers": [
        ("\\mathbb{R}^+", "x\\ge0"),
        ("(0,\\infty)", "\\mathbb{R}_{\\ge 0}"),
        ("(1,3)", "x>1, y<3"),
        ("(1,2), (3,4)", "(1,2)\\cup(3,4)"),
        ("n\\ge3", "n>2"),
    ],
    "bases, residues, names": [
        ("101_2", "5"),
        ("12_8", "10"),
        ("312_5", "312_6"),
        ("1010_2", "1010_{\\text{ten}}"),
        ("1 \\pmod 3", "2 \\pmod 3"),
        ("1 \\pmod 3", "1 \\pmod 5"),
        ("x=1, y=2", "x_1=1, y_1=3"),
    ],
}
UNFINISHED = ["<think>\\boxed{5}", "<reasoning>\\boxed{5}", "◁think▷\\boxed{5}", "<|begin_of_thought|>\\boxed{5}",
              "[THINK]\\boxed{5}", "<thought>\\boxed{5}", '<think type="deep">\\boxed{5}']  # fmt: skip
FINISHED = ["◁think▷hm◁/think▷\\boxed{5}", "[THINK]hm[/THINK]\\boxed{5}",
            "<|begin_of_thought|>hm<|end_of_thought|>\\boxed{5}",
            "<reasoning>hm</reasoning>\\boxed{5}", "hm</think>\\boxed{5}"]  # fmt: skip


def reward(gold, text):
    return MathVerifier().score(Prompt("p", "s", "?", {"answer": gold}), Response(text)).reward


def rows(table):
    return [
        pytest.param(*pair, id=f"{kind}: {pair[1][:40]} for {pair[0][:30]}")
        for kind, pairs in table.items()
        for pair in pairs
    ]


@pytest.fixture(scope="module", autouse=True)
def _libraries():
    """math-verify and pint are imported before any test is timed."""
    for gold, answer in (("2x+3y=6", "4x+6y=12"), ("5 cm", "50 mm")):
        reward(gold, f"\\boxed{{{answer}}}")


@pytest.mark.parametrize(("gold", "answer"), rows(EQUAL))
def test_equal(gold, answer):
    assert reward(gold, f"\\boxed{{{answer}}}") == 1.0


@pytest.mark.parametrize(("gold", "answer"), rows(DIFFERENT))
def test_different(gold, answer):
    assert reward(gold, f"\\boxed{{{answer}}}") == 0.0


@pytest.mark.parametrize("text", UNFINISHED)
def test_nothing_is_read_from_thoughts_without_an_end(text):
    assert reward("5", text) == 0.0


@pytest.mark.parametrize("text", FINISHED)
def test_thoughts_may_end(text):
    assert reward("5", text) == 1.0
