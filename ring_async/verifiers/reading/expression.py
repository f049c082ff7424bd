r"""A small reader of formulas: LaTeX or plain text into a tree, in linear time and bounded depth.

Owns: the grammar of closed arithmetic and of what surrounds it. Does not own: values (`arithmetic`), or how much work
a tree would be (`work`). math-verify stays the engine for algebra; this tree decides about numbers, and says
beforehand what the engine would be in for.

Invariant: `parse_expression` either returns a tree of the whole text or raises `NotAnExpressionError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ring_async.verifiers.reading.tokens import FUNCTIONS, NotAnExpressionError, tokens_of

MAX_DEPTH = 100

_FRACTIONS = frozenset({"\\frac", "\\dfrac", "\\tfrac", "\\cfrac"})
_BINOMIALS = frozenset({"\\binom", "\\dbinom", "\\tbinom"})
_TIMES = frozenset({"*", "\\cdot", "\\times"})
_OVER = frozenset({"/", "\\div"})
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "|": "|", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil",
            "\\langle": "\\rangle", "\\lvert": "\\rvert", "\\lbrace": "\\rbrace"}  # fmt: skip
_SEPARATORS = frozenset(
    [
        r",",
        r";",
        r":",
        r"=",
        r"<",
        r">",
        r"&",
        r"\\",
        r"\le",
        r"\leq",
        r"\ge",
        r"\geq",
        r"\lt",
        r"\gt",
        r"\ne",
        r"\neq",
        r"\in",
        r"\notin",
        r"\cup",
        r"\cap",
        r"\setminus",
        r"\to",
        r"\approx",
        r"\equiv",
        r"\pm",
        r"\mp",
        r"\sim",
        r"\mid",
        r"\bmod",
        r"\pmod",
        r"\mod",
        r"\land",
        r"\lor",
        r"\wedge",
        r"\vee",
        r"\subset",
        r"\subseteq",
        r"'",
        r"\quad",
        r"\ldots",
        r"\dots",
        r"\cdots",
    ]
)
_ARGUMENT_ENDS = frozenset({"+", "-", "/", *_TIMES, *_OVER, *_CLOSING.values()})


@dataclass(frozen=True, slots=True)
class Node:
    """An operation and its operands.

    `kind` is one of: number, name, + , -, *, /, ^, !, !!, negative, mod, list, or a function's name. A number has its
    `value`; `text` is a name, or a decimal number as it was written.

    Example: `2^{10}` is `Node("^", (Node("number", value=2), Node("number", value=10)))`.
    """

    kind: str
    parts: tuple[Node, ...] = ()
    value: Fraction | None = None
    text: str = ""


def parse_expression(text: str, *, lenient: bool = False) -> Node:
    r"""The tree of a formula.

    Args:
        text: LaTeX or plain: `\frac{1}{2}`, `2^10`, `3 sqrt(2)`, `4\frac12` (a mixed number).
        lenient: take commas, relations and unknown commands too, for an estimate of the work.

    Raises:
        NotAnExpressionError: it is none, is nested deeper than `MAX_DEPTH`, or has too many symbols.
    """
    parser = _Parser(tokens_of(text), lenient=lenient)
    tree = parser.statement() if lenient else parser.sum()
    if parser.ahead is not None:
        raise NotAnExpressionError(f"unexpected {parser.ahead!r}")
    return tree


class _Parser:
    """Recursive descent over tokens; `ahead` is the next one, or None at the end."""

    def __init__(self, tokens: list[str], *, lenient: bool) -> None:
        self._tokens = tokens
        self._position = 0
        self._depth = 0
        self._num_open_bars = 0
        self._num_functions = 0
        self._lenient = lenient
        self.ahead: str | None = tokens[0] if tokens else None

    def statement(self) -> Node:
        """Sums between separators, as a list; the closing bracket that ends it is left."""
        parts = [] if self.ahead in _SEPARATORS or self.ahead is None else [self.sum()]
        while self.ahead in _SEPARATORS:
            self._next()
            if self.ahead is not None and self.ahead not in _SEPARATORS and self.ahead not in _CLOSING.values():
                parts.append(self.sum())
        return parts[0] if len(parts) == 1 else Node("list", tuple(parts))

    def sum(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotAnExpressionError("nested too deeply")
        left = self._product()
        while self.ahead in ("+", "-"):
            kind = self._next()
            left = Node(kind, (left, self._product()))
        self._depth -= 1
        return left

    def _next(self) -> str:
        token = self.ahead
        if token is None:
            raise NotAnExpressionError("ends early")
        self._position += 1
        self.ahead = self._tokens[self._position] if self._position < len(self._tokens) else None
        return token

    def _expect(self, token: str) -> None:
        if self.ahead != token:
            raise NotAnExpressionError(f"{token!r} is missing")
        self._next()

    def _product(self) -> Node:
        left = self._signed()
        while True:
            if self.ahead in _TIMES:
                self._next()
                left = Node("*", (left, self._signed()))
            elif self.ahead in _OVER:
                self._next()
                left = Node("/", (left, self._signed()))
            elif self.ahead in ("\\bmod", "\\mod") and not self._lenient:
                self._next()
                left = Node("mod", (left, self._signed()))
            elif self._starts_atom():
                left = self._beside(left)
            else:
                return left

    def _beside(self, left: Node) -> Node:
        """What stands beside another without a sign: a factor; a fraction beside a whole number makes it mixed."""
        begins_fraction = self.ahead in _FRACTIONS
        is_digit = bool(self.ahead) and self.ahead[:1].isdigit()  # type: ignore[index]
        right = self._power()
        whole = left.parts[0] if left.kind == "negative" else left
        if whole.kind == "number" and not whole.text and right.kind == "/" and begins_fraction and _is_proper(right):
            mixed = Node("+", (whole, right))
            return Node("negative", (mixed,)) if left.kind == "negative" else mixed
        if is_digit and left.kind == "number" and not self._lenient:
            raise NotAnExpressionError("two numbers side by side")
        return Node("*", (left, right))

    def _signed(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotAnExpressionError("nested too deeply")
        if self.ahead == "-":
            self._next()
            inner = self._signed()
            # `-4\frac12` is minus the mixed number, so the sign waits for what stands beside the number
            result = Node("negative", (inner,))
        elif self.ahead == "+":
            self._next()
            result = self._signed()
        else:
            result = self._power()
        self._depth -= 1
        return result

    def _power(self) -> Node:
        base = self._postfix()
        if self.ahead == "_" and self._lenient:
            self._next()
            self._argument_of_script()
            while self.ahead in ("!", "!!"):
                base = Node(self._next(), (base,))
        if self.ahead != "^":
            return base
        self._next()
        if self._num_functions and self._is_degree():
            return Node("/", (Node("*", (base, Node("name", text="pi"))), Node("number", value=Fraction(180))))
        exponent = self._argument_of_script()
        if self.ahead == "^":  # 2^3^2: from the right
            self._next()
            exponent = Node("^", (exponent, self._argument_of_script()))
        power = Node("^", (base, exponent))
        while self.ahead in ("!", "!!"):
            power = Node(self._next(), (power,))
        return power

    def _is_degree(self) -> bool:
        r"""Take `\circ` or `{\circ}`: inside a function's argument it means radians; elsewhere it is a unit."""
        ahead = self._tokens[self._position : self._position + 3]
        length = 1 if ahead[:1] == ["\\circ"] else 3 if ahead == ["{", "\\circ", "}"] else 0
        for _ in range(length):
            self._next()
        return length > 0

    def _argument_of_script(self) -> Node:
        if self.ahead == "-":
            self._next()
            return Node("negative", (self._argument_of_script(),))
        if self.ahead == "+":
            self._next()
        return self._atom()  # `10^{9}!` is the factorial of the power

    def _postfix(self) -> Node:
        node = self._atom()
        while self.ahead in ("!", "!!"):
            node = Node(self._next(), (node,))
        return node

    def _starts_atom(self) -> bool:
        ahead = self.ahead
        if ahead is None or ahead in _SEPARATORS or ahead in ("+", "-", "^", "_", "!", "!!"):
            return False
        if ahead == "|":
            return self._num_open_bars == 0
        return ahead not in _CLOSING.values() and ahead not in ("\\over", "\\choose", "\\end")

    def _atom(self) -> Node:
        token = self._next()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return Node("number", value=Fraction(token), text=token if "." in token else "")
        if token in _CLOSING:
            return self._bracketed(token)
        if token in _FRACTIONS or token in _BINOMIALS:
            above, below = self._braced_argument(), self._braced_argument()
            return Node("/" if token in _FRACTIONS else "binomial", (above, below))
        name = token.lstrip("\\")
        if token.startswith("\\") and name in FUNCTIONS:
            return self._applied(name)
        if token.startswith("\\") and name == "operatorname" and self.ahead == "{":
            return self._operator()
        if name == "C" and self.ahead == "(":
            return self._combinations()
        if (token.startswith("\\") and name.isalpha()) or (token.isalpha() and token.isascii()):
            return self._named(name)
        if self._lenient and token not in ("^", "_", "}", ")", "]"):
            return Node("name", text=token)
        raise NotAnExpressionError(f"unexpected {token!r}")

    def _named(self, name: str) -> Node:
        if self.ahead == "_" and not self._lenient:
            raise NotAnExpressionError("a subscript")
        if name in ("begin", "end") and self.ahead == "{":  # an environment's name is no product of letters
            if not self._lenient:
                raise NotAnExpressionError("an environment")
            while self._next() != "}":
                pass
        return Node("name", text=name)

    def _bracketed(self, opening: str) -> Node:
        is_bar = opening == "|"
        self._num_open_bars += is_bar
        bars, self._num_open_bars = self._num_open_bars, self._num_open_bars if is_bar else 0
        inner = self._inside(opening)
        self._num_open_bars = bars - is_bar
        if opening in ("|", "\\lvert"):
            return Node("abs", (inner,))
        return Node(opening[2:], (inner,)) if opening in ("\\lfloor", "\\lceil") else inner

    def _inside(self, opening: str) -> Node:
        inner = self.statement() if self._lenient else self.sum()
        if opening == "{" and self.ahead in ("\\over", "\\choose"):
            kind = "/" if self._next() == "\\over" else "binomial"
            inner = Node(kind, (inner, self.sum()))
        if self._lenient and opening in "([" and self.ahead in (")", "]"):  # half-open intervals
            self._next()
        else:
            self._expect(_CLOSING[opening])
        if opening == "{" or inner.kind != "/":
            return inner
        return Node("group", (inner,))

    def _braced_argument(self) -> Node:
        r"""An argument of `\frac`: a group, or one character, as LaTeX has it (`\frac12`)."""
        if self.ahead == "{":
            return self._bracketed(self._next())
        if self.ahead is not None and self.ahead.isdigit() and len(self.ahead) > 1:
            digits = self.ahead
            self._tokens[self._position : self._position + 1] = [digits[0], digits[1:]]
            self.ahead = digits[0]
        return self._atom()

    def _applied(self, name: str) -> Node:
        base = power = None
        if name == "sqrt" and self.ahead == "[":
            self._next()
            base = self.sum()
            self._expect("]")
        while self.ahead in ("_", "^"):
            script = self._next()
            argument = self._script_token()
            base, power = (argument, power) if script == "_" else (base, argument)
        parts = (self._argument(name),) if base is None else (self._argument(name), base)
        node = Node(name, parts)
        if power is None:
            return node
        if power == Node("negative", (Node("number", value=Fraction(1)),)):
            return Node("arc" + name, parts)
        return Node("^", (node, power))

    def _script_token(self) -> Node:
        r"""`\log_23` has base 2: LaTeX takes one character."""
        return self._braced_argument() if self.ahead != "-" else self._argument_of_script()

    def _argument(self, name: str) -> Node:
        self._num_functions += 1
        argument = self._argument_of(name)
        self._num_functions -= 1
        return argument

    def _argument_of(self, name: str) -> Node:
        if self.ahead in ("(", "{", "|", "["):
            return self._bracketed(self._next())
        if name == "sqrt":
            return self._braced_argument()
        argument = self._signed() if self.ahead == "-" else self._power()
        while self._starts_atom() and (self.ahead or "").lstrip("\\") not in FUNCTIONS:
            argument = self._beside(argument)
        return argument

    def _operator(self) -> Node:
        r"""`\operatorname{lcm}`: the letters stand as single tokens."""
        self._next()
        letters = []
        while self.ahead != "}":
            letters.append(self._next().lstrip("\\"))
        self._next()
        name = "".join(letters)
        return self._applied(name) if name in FUNCTIONS else Node("name", text=name)

    def _combinations(self) -> Node:
        """`C(5,2)` is a binomial coefficient."""
        self._next()
        above = self.sum()
        if self.ahead != ",":
            self._expect(")")
            return Node("*", (Node("name", text="C"), above))
        self._next()
        below = self.sum()
        self._expect(")")
        return Node("binomial", (above, below))


def _is_proper(fraction: Node) -> bool:
    above, below = fraction.parts
    return above.kind == below.kind == "number" and not (above.text or below.text)
