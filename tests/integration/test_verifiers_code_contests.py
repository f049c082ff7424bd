"""Programs as contest solutions are written, and programs that are after the reward alone."""

# ruff: noqa: E501 - a program is a line
import asyncio
import shutil

import pytest

from ring_async.config.schema import VerifierSection
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.registry import make_verifier
from ring_async.verifiers.scoring import score_group

pytestmark = [
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
    pytest.mark.may_leak("the module's pool replaces its sandboxes during a test; its fixture closes it"),
]


@pytest.fixture(scope="module")
def verifier():
    made = make_verifier("code", VerifierSection(use="code"), num_workers=2)
    yield made
    made.close()


def reward(verifier, source, metadata):
    text = f"```python\n{source}\n```" if "```" not in source else source
    (verdict,) = asyncio.run(score_group(verifier, Prompt("p", "s", "?", metadata), [Response(text)], 30.0))
    return verdict.reward, verdict.explanation


SUM = {"tests": [{"stdin": "2\n5\n6\n", "stdout": "11"}]}
READERS = {
    "dev_stdin": "print(sum(map(int, open('/dev/stdin').read().split()[1:])))",
    "dev_fd": "print(sum(map(int, open('/dev/fd/0').read().split()[1:])))",
    "descriptor": "print(sum(map(int, open(0).read().split()[1:])))",
    "buffer": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split()[1:])))",
    "lines": "import sys\nprint(sum(map(int, list(sys.stdin)[1:])))",
    "no_import": "print(sum(map(int, stdin.read().split()[1:])))",
    "main": "def main():\n    n = int(input())\n    print(sum(int(input()) for _ in range(n)))\nif __name__ == '__main__':\n    main()",
    "thread": "import sys, threading\nsys.setrecursionlimit(1 << 30)\nthreading.stack_size(512 << 20)\n"
    "def main(): print(sum(map(int, sys.stdin.read().split()[1:])))\n"
    "t = threading.Thread(target=main); t.start(); t.join()",
    "threads": "from concurrent.futures import ThreadPoolExecutor\nimport sys\nn = sys.stdin.read().split()[1:]\n"
    "with ThreadPoolExecutor(8) as pool: print(sum(pool.map(int, n)))",
    "numpy": "import sys\nimport numpy as np\nprint(np.array(sys.stdin.read().split()[1:], dtype=np.int64).sum())",
    "sortedcontainers": "from sortedcontainers import SortedList\nn = int(input())\nprint(sum(SortedList(int(input()) for _ in range(n))))",
    "exit": "n = int(input()); print(sum(int(input()) for _ in range(n))); exit()",
    "bare": "import sys\nprint(sum(map(int, sys.stdin.read().split()[1:])))\n",
}


@pytest.mark.parametrize("name", READERS)
def test_ways_to_read(verifier, name):
    assert reward(verifier, READERS[name], SUM)[0] == 1.0


def test_a_second_test_reads_its_own_input(verifier):
    metadata = {"tests": [{"stdin": str(n), "stdout": str(n)} for n in (1, 22, 3)]}
    assert reward(verifier, "print(open('/dev/stdin').read())", metadata) == (1.0, "3 of 3 tests passed")


STUBS = {
    "class": (
        "class Solution:\n    def f(self, a: List[int]) -> Optional[int]:\n        return max(a)",
        "Solution.f",
        3,
    ),
    "free_for_class": ("def f(a): return max(a)", "Solution.f", 3),
    "class_for_free": ("class Solution:\n    def f(self, a): return max(a)", "f", 3),
    "static": ("class Solution:\n    @staticmethod\n    def f(a): return max(a)", "Solution.f", 3),
    "modules": (
        "class Solution:\n    def f(self, a): return collections.Counter(a)[3] + math.gcd(4, 6)",
        "Solution.f",
        3,
    ),
    "names": (
        "class Solution:\n    def f(self, a): return reduce(lambda x, y: max(x, y), deque(a), -inf)",
        "Solution.f",
        3,
    ),
    "decorated": ("@lru_cache(None)\ndef g(x): return x\ndef f(a): return g(max(a))", "f", 3),
    "heap": ("def f(a):\n    heapify(a)\n    return [heappop(a) for _ in range(3)]", "f", [1, 2, 3]),
    "set": ("def f(a): return {10, 9}", "f", [9, 10]),
    "deque": ("def f(a): return deque(a)", "f", [3, 1, 2]),
    "generator": ("def f(a): yield from a", "f", [3, 1, 2]),
    "in_place": ("def f(a): a.sort()", "f", [1, 2, 3]),
    "none": ("def f(a): pass", "f", None),
    "numpy_scalar": ("import numpy as np\ndef f(a): return np.max(a)", "f", 3),
    "numpy_array": ("import numpy as np\ndef f(a): return np.sort(a)", "f", [1, 2, 3]),
    "numpy_bool": ("import numpy as np\ndef f(a): return np.all(np.array(a) > 0)", "f", True),
    "decimal": ("def f(a): return Decimal('0.5')", "f", 0.5),
    "nan": ("def f(a): return nan", "f", float("nan")),
    "main_guard": (
        "def f(a): return 3\nif __name__ == '__main__':\n    print(f(list(map(int, input().split()))))",
        "f",
        3,
    ),
    "dataclass": ("@dataclass\nclass P:\n    x: int\ndef f(a): return P(3).x", "f", 3),
    "deep": ("def f(a):\n    def g(n): return 0 if n == 0 else 1 + g(n - 1)\n    return g(10000)", "f", 10000),
    "own_name_wins": ("def gcd(a, b): return 3\ndef f(a): return gcd(1, 1)", "f", 3),
    "future": ("from __future__ import annotations\ndef f(a: Nothing) -> List[int]: return 3", "f", 3),
    "usage_after": ("```python\ndef f(a): return 3\n```\n```python\nassert f([1]) == 3\n```", "f", 3),
}


@pytest.mark.parametrize("name", STUBS)
def test_stubs(verifier, name):
    source, function, expected = STUBS[name]
    metadata = {"function": function, "tests": [{"args": [[3, 1, 2]], "expected": expected}]}
    assert reward(verifier, source, metadata)[0] == 1.0, reward(verifier, source, metadata)


WRONG = {
    "order_of_a_set": ("def f(a): return set(a)", [3, 1, 2]),
    "in_place_wrong": ("def f(a): a.reverse()", [1, 2, 3]),
    "nothing_for_none": ("def f(a): raise ValueError", None),
    "missing_name": ("def f(a): return no_such_name", 3),
    "text_for_number": ("def f(a): return '3'", 3),
    "none_for_zero": ("def f(a): pass", 0),
    "off_by_one": ("def f(a): return 10**17 + 1", 10**17),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values(verifier, name):
    source, expected = WRONG[name]
    assert reward(verifier, source, {"function": "f", "tests": [{"args": [[3, 1, 2]], "expected": expected}]})[0] == 0.0


HACKS = {
    "always_equal": "class E:\n    def __eq__(s, o): return True\ndef f(x): return E()",
    "always_equal_int": "class E(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\ndef f(x): return E(7)",
    "always_equal_list": "class L(list):\n    def __eq__(s, o): return True\ndef f(x): return L([4])",
    "lying_text": "class I(int):\n    def __repr__(self): return '4'\ndef f(x): return I(7)",
    "json_replaced": "import json\njson.dumps = lambda *a, **k: '4'\ndef f(x): return 5",
    "frames": "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n        for v in frame.f_locals.values():\n"
    "            if isinstance(v, dict) and 'expected' in v: return v['expected']\n        frame = frame.f_back",
    "harness_replaced": "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'to_json'): m.to_json = lambda v: '4'\n"
    "frame = sys._getframe()\nwhile frame:\n    frame.f_globals['to_json'] = lambda v: 'x'\n    frame = frame.f_back\ndef f(x): return 5",
    "exit_at_once": "import os\nos._exit(0)",
    "system_exit": "import sys\nsys.exit(0)",
    "exit_in_call": "def f(x): raise SystemExit(0)",
    "stop_iteration": "def f(x): raise StopIteration(4)",
    "printed": "def f(x): print(4)",
    "printed_verdict": "print('1 of 1 tests passed')\ndef f(x): return True",
    "protocol": "import os\nos.write(1, b'\\0\\0\\0\\x02{}')\ndef f(x): return None",
    "empty_result": "import os\nos.write(3, b'')\nos._exit(0)",
    "all_values": "import os\nfor n in range(10): os.write(3, str(n).encode() + b'\\n')\nos._exit(0)",
    "set_of_all": "def f(x): return set(range(10))",
    "killed_itself": "import os\nos.kill(os.getpid(), 9)",
    "aborted": "import os\nos.abort()",
    "reads_its_judge": "import os\ndef f(x): return [open('/' + p, 'rb').read() for p in os.listdir('/') if '.' in p][:1]",
    "everything": "class E:\n    def __iter__(self): return iter([4])\n    def __int__(self): return 4\n    def __index__(self): return 4\ndef f(x): return E()",
}


@pytest.mark.parametrize("name", HACKS)
def test_reward_hacking_earns_nothing(verifier, name):
    metadata = {"function": "f", "tests": [{"args": [2], "expected": 4}]}
    assert reward(verifier, HACKS[name], metadata)[0] == 0.0


def test_what_a_program_prints_repeats(verifier):
    source = "print(hash('abc'), list({'a', 'b', 'c', 'd', 'e'}))"
    said = {reward(verifier, source, {"tests": [{"stdout": "x"}]})[1] for _ in range(4)}
    assert len(said) == 1


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print('x' * 1_500_000)", "x" * 1_500_000),
        ("print(10 ** 5000)", "1" + "0" * 5000),
        ("print('\\0' * 300_000)", "\0" * 300_000),
    ],
)
def test_long_right_output_is_right(verifier, source, expected):
    assert reward(verifier, source, {"tests": [{"stdout": expected}]}) == (1.0, "1 of 1 tests passed")


def test_input_that_nobody_reads(verifier):
    tests = [{"stdin": "x" * 300_000, "stdout": "1"}]
    assert reward(verifier, "print(1)", {"tests": tests})[0] == 1.0
    assert reward(verifier, "import os\nos.close(0)\nprint(1)", {"tests": tests})[0] == 1.0


@pytest.mark.parametrize(
    "source",
    ["print('\ud800')", "\0", "'\ud800'", "def", "\n" * 1000, "x" * 100_000, "(" * 10_000, "-" * 100_000 + "1"],
)
def test_odd_sources_are_wrong_not_broken(verifier, source):
    assert reward(verifier, source, {"tests": [{"stdout": "x"}]})[0] == 0.0
    cpp = {"language": "cpp", "tests": [{"stdout": "x"}]}
    assert reward(verifier, f"```cpp\n{source[:100]}\n```", cpp)[0] == 0.0
