"""Verdicts a second of every verifier, and sandboxes a second against bare bubblewrap in the same run.

The judge answers from a stub on this machine that replies at once: its row is the verifier's own cost. The reward model
is a small one, on the CPU. The sandbox is measured twice, before and after programs that try to exhaust it.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bars import Bar, write_bars
from ring_async.config.schema import VerifierSection
from ring_async.sandbox.pool import SandboxPool
from ring_async.sandbox.program import Program, SandboxLimits
from ring_async.types import Prompt
from ring_async.verifiers.base import Response, Verifier
from ring_async.verifiers.registry import make_verifier
from ring_async.verifiers.scoring import score_group

NUM_WORKERS = os.cpu_count() or 1
GROUP_SIZE = 8
MEASURE_S = 2.0
ROUNDS = 5
ROUND_S = 1.5
BARE = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "/bin/true"]
HOSTILE = {
    "fork bomb": (
        "import os, time\n"
        "for _ in range(200):\n"
        "    try:\n"
        "        if os.fork() == 0: time.sleep(2)\n"
        "    except OSError: break"
    ),
    "memory bomb": "x = bytearray(1 << 30)",
    "disk fill": "open('/tmp/x', 'wb').write(bytes(64 << 20))",
    "output flood": "while True: print('x' * 65536)",
    "sleeper": "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(60)",
    "killer": "import os\nos.kill(-1, 9)",
}


def verdicts_per_s(verifier: Verifier, cases: list[tuple[Prompt, list[Response]]]) -> float:
    """Groups scored one after another, their responses at once."""

    async def measure() -> float:
        for prompt, responses in cases[:2]:
            await score_group(verifier, prompt, responses, 30.0)
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < MEASURE_S:
            prompt, responses = cases[count // GROUP_SIZE % len(cases)]
            count += len(await score_group(verifier, prompt, responses, 30.0))
        return count / (time.perf_counter() - started)

    return asyncio.run(measure())


def group(text: str, metadata: dict[str, Any], *answers: str) -> tuple[Prompt, list[Response]]:
    responses = [Response(answers[index % len(answers)], num_tokens=10 + index) for index in range(GROUP_SIZE)]
    return Prompt("bench", "bench", text, metadata), responses


def logic_cases() -> list[tuple[Prompt, list[Response]]]:
    import reasoning_gym

    cases = []
    for task in ("countdown", "chain_sum", "mini_sudoku", "knights_knaves"):
        for entry in reasoning_gym.create_dataset(task, size=3, seed=1):
            plain = json.loads(json.dumps(entry, default=str))
            metadata = {"task": task, "entry": plain, "options": {}}
            answers = (f"<answer>{entry['answer']}</answer>", "<answer>0</answer>")
            cases.append(group(entry["question"], metadata, *answers))
    return cases


@contextmanager
def stub_judge() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"choices": [{"message": {"content": "Fine. Score: 7"}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def write_small_reward_model(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "the": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, num_labels=1
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)


def measure_verifiers(judge_url: str, model_folder: Path) -> dict[str, float]:
    instruction = {"instructions": [{"id": "punctuation:no_comma"}, {"id": "detectable_format:title"}]}
    sums = {"tests": [{"stdin": "3 4", "stdout": "7"}, {"stdin": "1 1", "stdout": "2"}]}
    program = "```python\nprint(sum(map(int, input().split())))\n```"
    settings: list[tuple[str, str, dict[str, Any], Callable[[], list[tuple[Prompt, list[Response]]]]]] = [
        ("math, equal as text", "math", {}, lambda: [group("?", {"answer": "\\frac{1}{2}"}, "\\boxed{\\frac12}")]),
        ("math, algebra", "math", {}, lambda: [group("?", {"answer": "x^2+2x+1"}, "\\boxed{(x+1)^2}")]),
        ("stem", "stem", {}, lambda: [group("?", {"answer": "36 km/h"}, "\\boxed{10 m/s}", "\\boxed{9 m/s}")]),
        ("logic", "reasoning_gym", {}, logic_cases),
        ("instruction", "instruction", {"mode": "loose"}, lambda: [group("?", instruction, "<<A>> b, c", "none")]),
        ("code", "code", {}, lambda: [group("?", sums, program)]),
        (
            "judge, stub",
            "judge",
            {"base_url": judge_url, "model": "stub", "cache_size": 0},
            lambda: [group("?", {}, "a")],
        ),
        ("judge, cached", "judge", {"base_url": judge_url, "model": "stub"}, lambda: [group("?", {}, "a", "b")]),
        ("reward model", "reward_model", {"path": str(model_folder)}, lambda: [group("?", {}, "the " * 60, "the")]),
    ]
    rates = {}
    for label, use, options, make_cases in settings:
        verifier = make_verifier("bench", VerifierSection(use=use, options=options), num_workers=NUM_WORKERS)
        try:
            rates[label] = verdicts_per_s(verifier, make_cases())
        finally:
            verifier.close()
        print(f"{label:22} {rates[label]:10,.0f} verdicts/s")
    return rates


def in_threads(work: Callable[[], None], seconds: float) -> float:
    """Calls a second, from as many threads as there are cores."""
    counts = [0] * NUM_WORKERS
    end = time.perf_counter() + seconds

    def loop(index: int) -> None:
        while time.perf_counter() < end:
            work()
            counts[index] += 1

    threads = [threading.Thread(target=loop, args=(index,)) for index in range(NUM_WORKERS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def measure_sandbox() -> dict[str, float]:
    pool = SandboxPool(NUM_WORKERS, SandboxLimits(cpu_s=1.0, wall_s=2.0, memory_bytes=256 << 20, disk_bytes=8 << 20))

    def trivial() -> None:
        with pool.session(Program("print(1)")) as session:
            assert session.run().stdout == "1\n"

    try:
        ours, bare = [], []
        for _ in range(ROUNDS):
            ours.append(in_threads(trivial, ROUND_S))
            bare.append(in_threads(lambda: subprocess.run(BARE, check=True), ROUND_S))
        for source in HOSTILE.values():
            with pool.session(Program(source)) as session:
                session.run()
        after = [in_threads(trivial, ROUND_S) for _ in range(ROUNDS)]
    finally:
        pool.close()
    return {
        "sandbox": statistics.median(ours),
        "bare": statistics.median(bare),
        "ratio": statistics.median(mine / theirs for mine, theirs in zip(ours, bare, strict=True)),
        "after": statistics.median(after),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, stub_judge() as judge_url:
        write_small_reward_model(Path(folder))
        rates = measure_verifiers(judge_url, Path(folder))
    found = measure_sandbox()
    print(
        f"sandbox: {found['sandbox']:.0f} trivial Python programs/s, {found['after']:.0f} after {len(HOSTILE)} hostile "
        f"ones; bare bubblewrap running /bin/true: {found['bare']:.0f} starts/s; ratio {found['ratio']:.2f}"
    )
    bars = {
        "sandbox_programs_per_s": Bar(found["sandbox"], 60, "programs/s"),
        "sandbox_programs_per_s_after_attacks": Bar(found["after"], 60, "programs/s"),
        **{
            f"{label.replace(', ', '_').replace(' ', '_')}": Bar(rate, 0, "verdicts/s") for label, rate in rates.items()
        },
        "bare_bubblewrap_starts_per_s": Bar(found["bare"], 0, "starts/s"),
        "sandbox_to_bare_bubblewrap": Bar(found["ratio"], 0, "ratio"),
    }
    write_bars("rewards", bars)


if __name__ == "__main__":
    main()
