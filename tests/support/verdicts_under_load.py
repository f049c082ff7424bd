"""One program's verdict, judged 100 times on an idle machine and 100 times on a busy one: 200 equal verdicts.

    python -m tests.support.verdicts_under_load [TIMES]

Five programs: one that computes for a third of a second in each of four tests, one that prints a set, one that computes
for too long, one that sleeps for too long, one in C++. Busy: 8 processes that compute without end, and 8 programs
judged at once. Prints how often each verdict came out, and ends with 1 if one program has two.
"""

import asyncio
import os
import sys
import time
from collections import Counter

from ring_async.config.schema import VerifierSection
from ring_async.types import Prompt
from ring_async.verifiers.base import Response, Verifier
from ring_async.verifiers.registry import make_verifier
from ring_async.verifiers.scoring import score_group
from tests.support.load import busy

_LOAD = 8
_TESTS = [{"stdin": str(number), "stdout": str(number)} for number in range(4)]
_PROGRAMS = {
    "computes 4 x 0.3 s": ("import time\nwhile time.process_time() < 0.3: pass\nprint(input())", "python", _TESTS),
    "prints a set": ("print({'a', 'b', 'c'}, hash('x'))", "python", [{"stdout": "-"}]),
    "computes too long": ("while True: pass", "python", [{"stdout": "-"}]),
    "sleeps too long": ("import time\ntime.sleep(60)", "python", [{"stdout": "-"}]),
    "c++": ("#include <iostream>\nint main() { int n; std::cin >> n; std::cout << n; }", "cpp", _TESTS),
}


def verdicts(verifier: Verifier, name: str, times: int, at_once: int) -> Counter[tuple[float, str]]:
    """How often the program had which reward, and why; figures in the explanation left out."""
    source, language, tests = _PROGRAMS[name]
    prompt = Prompt("p", "s", "?", {"tests": tests})
    responses = [Response(f"```{language}\n{source}\n```")] * at_once
    judged: list[tuple[float, str]] = []
    while len(judged) < times:
        group = asyncio.run(score_group(verifier, prompt, responses[: times - len(judged)], 2.0))
        judged += [(verdict.reward, verdict.explanation.partition(" (")[0].partition(" after")[0]) for verdict in group]
    return Counter(judged)


def main() -> int:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    options = {"limits": {"cpu_s": 1, "wall_s": 2}}
    section = VerifierSection(use="code", options=options)
    verifier = make_verifier("code", section, num_workers=_LOAD)
    differing = 0
    try:
        for name in _PROGRAMS:
            began = time.monotonic()
            idle = verdicts(verifier, name, times, at_once=max(1, (os.cpu_count() or 2) // 2))
            middle = time.monotonic()
            with busy(_LOAD):
                loaded = verdicts(verifier, name, times, at_once=_LOAD)
            took = f"{middle - began:.0f} s and {time.monotonic() - middle:.0f} s"
            together = idle + loaded
            differing += len(together) > 1
            print(f"{name}: {dict(together)} ({took})", flush=True)
    finally:
        verifier.close()
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
