"""A release's own overlapped event loop and pause, over fakes: what its scheduler does with a step around an update.

As a program: `sglang_event_loop.py WHEEL LOOP` prints, as JSON, the serial of the weights that sampled each token of
each request (the truth) and what our plugin's tags say. Releases cannot share one process.

The loop runs the wheel's code for the order of launch, pause, update, continue and result; batches, results and weights
are fakes. Request `b` has no part in the step that is under way when the pause comes; `c` arrives after the update.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import json
import logging
import subprocess
import sys
import time
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ring_async.engines.sglang.plugin import TAG, _InForce, count_update, mark_result, tag_tokens

METHODS = ("event_loop_overlap", "event_loop_normal", "pause_generation", "is_disable_overlap_for_batch")
SCRIPT = {4: "pause", 5: "update", 6: "continue", 9: "pause", 10: "update", 11: "continue"}
LAST_STEP = 16


def tags_and_truth(wheel: Path, loop: str) -> dict[str, dict[str, list[int]]]:
    """By request: `truth` and `tags`."""
    reply = subprocess.run(
        [sys.executable, __file__, str(wheel), loop], check=True, capture_output=True, text=True, timeout=60
    )
    return json.loads(reply.stdout)


class _Anything:
    """Flags that are off, and services that do nothing."""

    def __getattr__(self, _: str) -> Any:
        return SimpleNamespace(get=lambda: False)


class _Mode:
    def is_extend(self) -> bool:
        return False

    def is_decode(self) -> bool:
        return True


class _Batch:
    forward_mode = _Mode()
    is_extend_in_batch = False
    spec_algorithm = SimpleNamespace(is_none=lambda: True)

    def __init__(self, reqs: list[Any]) -> None:
        self.reqs = reqs

    def copy(self) -> _Batch:
        return _Batch(list(self.reqs))

    def is_empty(self) -> bool:
        return not self.reqs


class _Over(Exception):  # noqa: N818 - the end of the script
    pass


def _scheduler_class(wheel: Path) -> type:
    """A class with the wheel's own methods, without annotations and decorators."""
    source = (wheel / "sglang/srt/managers/scheduler.py").read_text()
    body: list[ast.stmt] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == "Scheduler":
            for one in node.body:
                if isinstance(one, ast.FunctionDef) and one.name in METHODS:
                    one.decorator_list, one.returns = [], None
                    for argument in one.args.args:
                        argument.annotation = None
                    body.append(one)
    module = ast.Module([ast.ClassDef("Scheduler", [], [], body, [])], [])
    ast.fix_missing_locations(module)
    names: dict[str, Any] = {
        **vars(typing),
        "deque": collections.deque,
        "time": time,
        "logger": logging.getLogger(),
        "envs": _Anything(),
        "DisaggregationMode": SimpleNamespace(PREFILL="p", DECODE="d", NULL="n"),
    }
    for name in ("ScheduleBatch", "GenerationBatchResult", "EmbeddingBatchResult", "Req"):
        names[name] = object
    exec(compile(module, "scheduler", "exec"), names)
    return names["Scheduler"]


def _run(wheel: Path, loop: str) -> dict[str, dict[str, list[int]]]:
    scheduler = _scheduler_class(wheel)()
    requests = {
        name: SimpleNamespace(name=name, output_ids=[], customized_info=None, truth=[], finished=lambda: False)
        for name in "abc"
    }
    weights = SimpleNamespace(serial=0)
    step = SimpleNamespace(number=0)

    def update() -> None:
        def load(*_: Any) -> SimpleNamespace:
            weights.serial += 1
            return SimpleNamespace(success=True)

        count_update(load, None, SimpleNamespace(weight_version=str(weights.serial + 1)))

    def process_messages(messages: list[str]) -> None:
        for message in messages:
            if message == "pause":
                scheduler.pause_generation(SimpleNamespace(mode="in_place"))
            elif message == "update":
                update()
            else:
                scheduler._engine_paused = False
        step.number += 1
        if step.number > LAST_STEP:
            raise _Over

    def next_batch(**kwargs: Any) -> SimpleNamespace:
        names = "ab" if step.number % 2 else "a"
        names += "c" if step.number > 7 else ""
        batch = _Batch([requests[name] for name in names])
        return SimpleNamespace(running_batch=kwargs["running_batch"], batch_to_run=batch)

    def run_batch(batch: _Batch, *_: Any) -> SimpleNamespace:
        result = SimpleNamespace(sampled_by=weights.serial)
        mark_result(result, scheduler, batch)
        return result

    def process_result(batch: _Batch, result: SimpleNamespace) -> None:
        tag_tokens(scheduler, batch, result)
        for request in batch.reqs:
            request.output_ids.append(0)
            request.truth.append(result.sampled_by)

    def receive() -> list[str]:
        return [SCRIPT[step.number]] if step.number in SCRIPT else []

    nothing = lambda *_, **__: None  # noqa: E731
    vars(scheduler).update(
        gracefully_exit=False,
        _engine_paused=False,
        enable_overlap=loop == "event_loop_overlap",
        running_batch=_Batch([]),
        last_batch=None,
        cur_batch_for_debug=None,
        waiting_queue=[],
        chunked_req=None,
        is_generation=True,
        require_mlp_sync=False,
        enable_unified_memory=False,
        enable_overlap_mlx=False,
        enable_continuous_input_polling=False,
        disaggregation_mode="n",
        ps=SimpleNamespace(pp_size=1),
        decode_offload_manager=None,
        hisparse_coordinator=None,
        _pause_started_at=None,
        _pause_intervals=[],
        result_queue=collections.deque(),
        metrics_reporter=_Anything(),
        kv_events_publisher=_Anything(),
        request_receiver=SimpleNamespace(recv_requests=receive),
        process_input_requests=process_messages,
        ingest_requests=lambda: process_messages(receive()),
        get_next_batch_to_run=next_batch,
        run_batch=run_batch,
        process_batch_result=process_result,
        launch_batch_sample_if_needed=nothing,
        on_idle=nothing,
        _apply_war_barrier=nothing,
        _record_scheduler_state_for_paused_engine=nothing,
    )
    with contextlib.suppress(_Over):
        getattr(scheduler, loop)()
    return {
        name: {"truth": request.truth, "tags": request.customized_info[TAG][0 : len(request.output_ids)]}
        for name, request in requests.items()
    }


if __name__ == "__main__":
    import torch

    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]
    assert _InForce.serial == 0
    print(json.dumps(_run(Path(sys.argv[1]), sys.argv[2])))
