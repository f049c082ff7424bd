"""A plugin inside SGLang's scheduler that tells of every sampled token which weights sampled it.

    launch of a step ────▶ its result remembers the serial of the weights in force
    result processed ────▶ requests whose serial differs note at which token the new one begins
    chunk streamed ──────▶ meta_info[TAG]: one serial for each of its tokens
    update of weights ───▶ wait for the step under way, load, wait for the copies, count the serial up

Owns: the exactness of versions per token under overlap scheduling. There a step launched before an update is delivered
after it, and SGLang's own spans credit its tokens to the new weights. Here the serial is read at the launch, so it
cannot be late, and an update waits for the device, so that no copy runs under a step.

Rejected: one tag for each token and step through `LogitsProcessorOutput.customized_info`; exact too, but it costs the
scheduler 0.6 µs a token, of some 17 it has at 58,000 tokens a second.

SGLang loads it through the entry point `sglang.srt.plugins` in every process of a server. It does nothing unless
`ENABLE` is set in the server's environment. Imports nothing of ring_async: a server's process needs no more than this.
One token a step: not made for speculative decoding.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

ENABLE = "RING_ASYNC_STEP_TAGS"
NAME = "ring_async"
"""Of the entry point."""
TAG = "ring_weights"
"""Key in `meta_info`: one serial for each token."""

RUN_BATCH = "sglang.srt.managers.scheduler.Scheduler.run_batch"
PROCESS_RESULT = "sglang.srt.managers.scheduler.Scheduler.process_batch_result"
UPDATE = (
    "sglang.srt.managers.scheduler_components.weight_updater.SchedulerWeightUpdaterManager.update_weights_from_tensor"
)


class _InForce:
    """The serial of the weights in this process: 0 for those it was started with."""

    serial = 0


class StepTags:
    """The serials of one request's tokens, as runs; a slice of it is a list with one serial for each token."""

    __slots__ = ("runs",)

    def __init__(self, serial: int) -> None:
        self.runs = [(0, serial)]

    def begin(self, token: int, serial: int) -> None:
        """From this token on; a run that has no token yet is replaced."""
        if self.runs[-1][0] == token:
            self.runs.pop()
        self.runs.append((token, serial))

    def __getitem__(self, tokens: slice) -> list[int]:
        start, stop = tokens.start or 0, tokens.stop
        if len(self.runs) == 1:
            return [self.runs[0][1]] * (stop - start)
        ends = [begin for begin, _ in self.runs[1:]] + [max(stop, self.runs[-1][0])]
        serials: list[int] = []
        for (begin, serial), end in zip(self.runs, ends, strict=True):
            serials += [serial] * (min(end, stop) - max(begin, start))
        return serials


def register() -> None:
    """Entry point: hook the scheduler, where the environment asks for it."""
    if os.environ.get(ENABLE) != "1":
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(RUN_BATCH, mark_result, HookType.AFTER)
    HookRegistry.register(PROCESS_RESULT, tag_tokens, HookType.BEFORE)
    HookRegistry.register(UPDATE, count_update, HookType.AROUND)


def mark_result(result: Any, *_: Any, **__: Any) -> None:
    """After the launch of a step: its result remembers the serial in force."""
    if result is not None:
        result.ring_serial = _InForce.serial


def tag_tokens(_scheduler: Any, batch: Any, result: Any, *_: Any, **__: Any) -> None:
    """Before a step's tokens are appended to their requests: note where a serial begins.

    In nearly every step no request's serial changes; then this is one comparison for each of them.
    """
    serial = getattr(result, "ring_serial", None)
    if serial is None:
        return
    try:
        changed = [request for request in batch.reqs if request.ring_serial != serial]
    except AttributeError:  # some are new
        changed = [request for request in batch.reqs if getattr(request, "ring_serial", None) != serial]
    for request in changed:
        tags = getattr(request, "ring_tags", None)
        if tags is None:
            request.ring_tags = tags = StepTags(serial)
            request.customized_info = {**(request.customized_info or {}), TAG: tags}
        else:
            tags.begin(len(request.output_ids), serial)
        request.ring_serial = serial


def count_update(original: Callable[..., Any], updater: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Around an update: none of the device's work overlaps it, and its success counts the serial up."""
    import torch

    torch.cuda.synchronize()
    reply = original(updater, request, *args, **kwargs)
    torch.cuda.synchronize()
    serial = request.weight_version
    if reply.success and serial is not None and str(serial).isdigit():
        _InForce.serial = int(serial)
    return reply
