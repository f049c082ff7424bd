"""One program in one sandbox, for as many tests as wanted.

Owns: what is asked of the harness, and telling a program's fault from the machine's. Does not own: the sandbox (`box`).

What a program does to itself is a `Result`; what the machine does to it is a `VerifierError`. CPU time decides whether
a program is too slow. Time on the clock decides only together with what the program did meanwhile: asleep or waiting
for input, it is at fault; waiting for a processor that others use, it is not, and is given ten times as long. Past that
the machine is called busy and nobody has a verdict.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from ring_async.errors import VerifierError
from ring_async.sandbox.activity import Activity
from ring_async.sandbox.box import Box
from ring_async.sandbox.program import Call, Program, RefusedProgramError, Result, SandboxLimits
from ring_async.telemetry import metrics

_GRACE_S = 30.0
_PATIENCE = 10
"""How much slower than alone a machine may run a program before the machine is at fault."""
_MAX_COMPILER_BYTES = 3 << 30
_JSON_EXPANSION = 6
"""Bytes of JSON that one byte of output may take (`\\u0000`)."""


class ProgramSession:
    """Runs tests on one program. Made by `SandboxPool.session`.

    Example: with `print(2 * int(input()))` in it, `run("21")` gives `Result("ok", stdout="42…", …)`, and `run("x")`
    gives `Result("error", exit_code=1, stderr="… ValueError …")`; each run is a fresh process.
    """

    def __init__(self, box: Box, program: Program, limits: SandboxLimits) -> None:
        self._box = box
        self._program = program
        self._limits = limits
        self._dead: Result | None = None

    def prepare(self) -> None:
        """Hand over the program, and compile it.

        Raises:
            RefusedProgramError: it does not compile.
            VerifierError: the sandbox died or stalled of the machine's own accord.
        """
        self._box.wait_ready()
        self._box.send(
            {"language": self._program.language, "source": self._program.source, "limits": asdict(self._limits)}
        )
        watch = _Watch(self._box, _MAX_COMPILER_BYTES, math.inf)
        answer = self._box.receive(_PATIENCE * self._limits.compile_s + _GRACE_S, watch)
        if answer is None:
            raise RefusedProgramError("the compiler used more memory than allowed")
        if answer.get("refused") == "killed":
            raise VerifierError("sandbox_killed", "the compiler was killed from outside; out of memory?")
        if "refused" in answer:
            raise RefusedProgramError(answer["output"])

    def run(self, stdin: str = "", *, max_own_s: float = math.inf) -> Result:
        """Run the program with this standard input.

        Args:
            stdin: what it can read.
            max_own_s: tighter than the limit `wall_s`, for this run.

        Raises:
            VerifierError: the sandbox died or stalled of the machine's own accord.
        """
        return self._test({"stdin": stdin}, max_own_s)

    def call(self, call: Call, *, max_own_s: float = math.inf) -> Result:
        """Run the program, then call a function of it; `Result.value` is what it returned, as JSON.

        Raises:
            VerifierError: as `run`.
        """
        if self._program.language != "python":
            raise ValueError(f"functions can be called in Python programs, not in {self._program.language}")
        test = {"function": call.function, "args": list(call.args), "kwargs": dict(call.kwargs)}
        return self._test(test, max_own_s)

    def _test(self, test: dict[str, Any], max_own_s: float) -> Result:
        if self._dead is not None:
            return self._dead
        own_s = min(self._limits.wall_s, max_own_s)
        watch = _Watch(self._box, self._limits.memory_bytes, own_s)
        self._box.send(test)
        max_bytes = 3 * _JSON_EXPANSION * self._limits.output_bytes + (1 << 16)
        answer = self._box.receive(_PATIENCE * own_s + _GRACE_S, watch, max_bytes)
        if answer is None:
            self._dead = Result("memory", stderr="the sandbox used more memory than allowed")
            metrics.reward_sandbox_runs.labels(status="memory").inc()
            return self._dead
        if answer["status"] == "killed":
            raise VerifierError("sandbox_killed", "the program was killed from outside; out of memory?")
        result = Result(**answer)
        metrics.reward_sandbox_runs.labels(status=result.status).inc()
        return replace(result, own_s=watch.idle_s + max(result.cpu_s, watch.cpu_s))


@dataclass(slots=True)
class _Watch:
    """Follows one run: ends its sandbox for its memory, stops it once its own time is used up.

    Example: a program that computes for 1 s on a machine with four such programs a processor takes 4 s on the clock;
    `cpu_s` is 1 and `idle_s` 0. One that sleeps for 4 s has `cpu_s` 0 and `idle_s` 4.
    """

    box: Box
    max_memory_bytes: int
    max_own_s: float
    idle_s: float = 0.0
    cpu_s: float = 0.0
    is_stopped: bool = False

    def __call__(self, activity: Activity, elapsed_s: float) -> bool:
        self.idle_s += elapsed_s if activity.is_idle else 0.0
        self.cpu_s = max(self.cpu_s, activity.cpu_s)
        if not self.is_stopped and self.idle_s + self.cpu_s > self.max_own_s:
            self.is_stopped = True
            self.box.send({"stop": True})
        return activity.resident_bytes > self.max_memory_bytes
