import pytest

from ring_async.sandbox.pool import Program
from ring_async.verifiers.rules.code import extract_program


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
        ("```python\nx", None, None),
        ("print(1)", None, None),
    ],
)
def test_extract_program(text, language, program):
    assert extract_program(text, language) == program
