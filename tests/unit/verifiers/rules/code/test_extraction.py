"""The program in a response: fences of every kind, and the right one of several."""

import pytest

from ring_async.sandbox.program import Program
from ring_async.verifiers.rules.code.extraction import bare_program, extract_program

T = "```"


@pytest.mark.parametrize(
    ("text", "language", "program"),
    [
        ("```python\nx\n```", None, Program("x\n", "python")),
        ("```py\nx\n```", None, Program("x\n", "python")),
        ("```\nx\n```", None, Program("x\n", "python")),
        ("```cpp\nx\n```", None, Program("x\n", "cpp")),
        ("```C++\nx\n```", None, Program("x\n", "cpp")),
        ("```python\na\n```\nbetter:\n```python\nb\n```", None, Program("b\n", "python")),
        ("```python\na\n```\noutput:\n```text\n7\n```", None, Program("a\n", "python")),
        ("```cpp\na\n```\n```python\nb\n```", "cpp", Program("a\n", "cpp")),
        ("```\na\n```", "cpp", Program("a\n", "cpp")),
        ("```rust\na\n```", None, None),
        ("```python\nx", None, Program("x\n", "python")),
        ("print(1)", None, None),
        ("", None, None),
        ("```", None, Program("", "python")),
    ],
)
def test_extract_program(text, language, program):
    assert extract_program(text, language) == program


@pytest.mark.parametrize(
    "text",
    [
        "```Python3\nx\n```",
        "```python3.11\nx\n```",
        "```{.python}\nx\n```",
        '```python title="a.py"\nx\n```',
        "```python {linenos=true}\nx\n```",
        "``` python\nx\n```",
        "```python   \nx\n```   ",
        "````python\nx\n````",
        "~~~python\nx\n~~~",
        "```python\r\nx\r\n```\r\n",
        "```python\nx",
        "```python\nx\n``` and so on\n```",
        "```python x```",
        "Here: ```python x``` is it.",
        "Here it is: ```python\nx\n```",
        "```python\nx```",
        "1. Code:\n   ```python\n   x\n   ```\n",
        "1. ```python\n   x\n   ```\n",
        "- ```python\n  x\n  ```\n",
        "\t```python\n\tx\n\t```\n",
        "> ```python\n> x\n> ```\n",
        ">```python\n>x\n>```\n",
        "<answer>```python\nx\n```</answer>",
        "<answer>\n```python\nx\n```\n</answer>",
        "```pypy3\nx\n```",
        "\ufeff```python\nx\n```",
        "<think>```python\ny\n```</think>\n```python\nx\n```",
        "thoughts ```python\ny\n``` </think>\n```python\nx\n```",
        "```python\nx\n```\nRun it:\n```bash\npython a.py\n```\nOutput:\n```\n1\n```",
        "```python\nx\n```\n```json\n{}\n```",
        "```\nold\n```\n```python\nx\n```",
        "```python\nx\n```\n\n    ```output\n    1\n    ```",
    ],
)
def test_fences_of_every_kind(text):
    program = extract_program(text)
    assert program is not None
    assert (program.source.split("```")[0].strip().splitlines()[0], program.language) == ("x", "python")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (f"{T}python\ns = '''\n{T}\n'''\nprint(1)\n{T}", f"s = '''\n{T}\n'''\nprint(1)\n"),
        (f'{T}python\ns = """a\n{T}\nb"""\n{T}', f's = """a\n{T}\nb"""\n'),
        (f"{T}python\n# '''\n{T}\nIt's '''\n{T}\n1\n{T}", "# '''\n"),
        (f"{T}python\ns = \"'''\"\n{T}\nIt's '''\n{T}\n1\n{T}", "s = \"'''\"\n"),
        (f"{T}python\ns = '''never ends\n{T}\n", "s = '''never ends\n"),
        (f"{T}python\nprint('{T}')\n{T}", f"print('{T}')\n"),
        (f"{T}{T[0]}python\n{T}\n{T}{T[0]}", f"{T}\n"),
        (f"~~~python\n{T}\n~~~", f"{T}\n"),
        (f"{T}python\nif 1:\n    x\n\n    y\n{T}", "if 1:\n    x\n\n    y\n"),
        (f"  {T}python\n  if 1:\n      x\n  {T}", "if 1:\n    x\n"),
        (f"> {T}python\n> if 1:\n>     x\n> {T}", "if 1:\n    x\n"),
        (f"{T}python\n\tx\n{T}", "\tx\n"),
    ],
)
def test_what_stands_within_a_fence(text, source):
    assert extract_program(text) == Program(source)


def fenced(*sources):
    return "\n".join(f"{T}{label}\n{source}\n{T}" for label, source in sources)


@pytest.mark.parametrize(
    ("blocks", "function", "reads_input", "chosen"),
    [
        ([("python", "def f(x): return x"), ("python", "assert f(2) == 2")], "f", False, 0),
        (
            [("python", "class Solution:\n  def f(self): 1"), ("python", "print(Solution().f())")],
            "Solution.f",
            False,
            0,
        ),
        ([("python", "def f(x): 1"), ("python", "def f(x): 2")], "f", False, 1),
        ([("python", "def f(x): 1"), ("python", "def g(x): f(x)")], "f", False, 0),
        ([("", "def f(x): 1"), ("python", "print(f(1))")], "f", False, 0),
        ([("python", "f = lambda x: x"), ("python", "print(f(1))")], "f", False, 0),
        ([("python", "def fast(x): 1"), ("python", "x = 1")], "f", False, 1),
        ([("python", "print(input())"), ("python", "print(2)")], "", True, 0),
        ([("python", "import sys\nprint(sys.stdin.read())"), ("python", "assert True")], "", True, 0),
        ([("python", "print(open(0).read())"), ("python", "print(2)")], "", True, 0),
        ([("cpp", "int main() { std::cin >> a; }"), ("cpp", "int main() { }")], "", True, 0),
        ([("python", "print(input())"), ("python", "print(2)")], "", False, 1),
        ([("python", "print(1)"), ("python", "print(2)")], "", True, 1),
    ],
)
def test_the_right_block_of_several(blocks, function, reads_input, chosen):
    program = extract_program(fenced(*blocks), function=function, reads_input=reads_input)
    assert program is not None
    assert program.source == blocks[chosen][1] + "\n"


@pytest.mark.parametrize(
    "text", ["<think>```python\nx\n```", "<think>\n```python\nx\n```\nso", "`x`", "``python\nx\n``", "```java\nx\n```"]
)
def test_what_is_no_answer(text):
    assert extract_program(text) is None


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("print(1)", "python"),
        ("import sys\nprint(1)", "python"),
        ("from sys import stdin", "python"),
        ("n = int(input())\nprint(n)", "python"),
        ("a, b = 1, 2", "python"),
        ("def f(x):\n    return x", "python"),
        ("class Solution:\n    pass", "python"),
        ("@cache\ndef f(): 1", "python"),
        ("for i in range(3): print(i)", "python"),
        ("<think>hm</think>\nprint(1)", "python"),
        ("#include <iostream>\nint main() {}", "cpp"),
        ("using namespace std;", "cpp"),
    ],
)
def test_a_response_that_is_a_program(text, language):
    program = bare_program(text)
    assert program is not None
    assert program.language == language


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "The answer is 7.",
        "From here on",
        "If so, yes.",
        "x == 1",
        "<answer>5</answer>",
        "<think>print(1)",
        "a ```b```",
    ],
)
def test_prose_is_no_program(text):
    assert bare_program(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "```\n" * 25_000,
        "```python\n'''\n" + "```\n" * 25_000,
        "```python\n" + "'''\n```\n" * 12_000,
        "> " * 50_000,
        "```python " * 10_000,
        "```python\n" + "'" * 100_000,
        "```python\n" + '"\\' * 50_000,
        "1. " * 30_000,
        "`" * 100_000 + "x",
        "a, " * 30_000,
    ],
)
@pytest.mark.timeout(10)
def test_hostile_responses_take_linear_time(text):
    extract_program(text, function="f")
    extract_program(text, reads_input=True)
    bare_program(text)
