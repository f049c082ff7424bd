"""A version carries its own weights, also when the next batch is there before the step has ended."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from ring_async.actors import learner as module
from ring_async.actors.learner import Learner
from ring_async.testing.builders import make_config

NUM_VERSIONS = 6


class Counting:
    """An engine whose weights are the number of its steps; a snapshot takes them when it is made."""

    def __init__(self) -> None:
        self.steps = 0

    def train_batch(self, *_: Any) -> Any:
        self.steps += 1
        return SimpleNamespace(loss_tokens=1, num_optimizer_steps=1, seconds=0.0, metrics={}, tokens=())

    def tune(self, knobs: dict[str, Any]) -> None:
        del knobs

    def snapshot(self) -> Any:
        steps = self.steps
        return SimpleNamespace(tensors=lambda: steps, shapes=(), close=lambda: None)


@contextmanager
def nothing(*_: Any, **__: Any) -> Iterator[Any]:
    yield SimpleNamespace()


async def at_once(value: Any = None) -> Any:
    """Answers without giving way to another task, as a link with credit does."""
    return value


async def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The number and the weights of each version of a short run."""
    found: list[tuple[int, int]] = []
    one: Any = Learner.__new__(Learner)
    plan = SimpleNamespace(plan_number=1, token_budget=1, verifier_epoch=0, mixture_epoch=0)
    sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    sent.set_result(None)
    with ThreadPoolExecutor(1) as compute:
        given = {
            "context": SimpleNamespace(config=make_config(stop__policy_versions=NUM_VERSIONS)),
            "compute": compute,
            "config": make_config(stop__policy_versions=NUM_VERSIONS),
            "controller": SimpleNamespace(send=lambda *_, **__: at_once(sent)),
            "tracer": SimpleNamespace(span=nothing, async_span=nothing),
            "sender": SimpleNamespace(publish=lambda version, weights, _: found.append((version.number, weights))),
            "_engine": Counting(),
            "_ranks": None,
            "_lineage": 0,
            "_knobs": {},
            "_publishing": None,
            "_published_s": 0.0,
            "_num_steps": 0,
            "_busy_s": 0.0,
            "_busy": asyncio.Lock(),
            "_unpaused": asyncio.Event(),
            "_idle": SimpleNamespace(waiting=nothing),
            "_tries": SimpleNamespace(train=lambda _, train: train()),
            "_trained_tokens": SimpleNamespace(append=lambda _: None),
            "_restore": lambda: at_once(0),
            "_save_checkpoint": at_once,
            "_next_batch": lambda _: at_once(SimpleNamespace(batch=SimpleNamespace(plan=plan), share=None)),
        }
        for name, value in given.items():
            monkeypatch.setattr(one, name, value, raising=False)
        for name in ("observe_step", "step_record", "StepCompleted", "WeightsPublished"):
            monkeypatch.setattr(module, name, lambda *_: None)
        one._unpaused.set()
        await one._train()
        await one._publishing
    return found


def test_each_version_is_published_with_the_weights_of_its_own_step(monkeypatch: pytest.MonkeyPatch):
    found = asyncio.run(published(monkeypatch))
    assert found == [(number, number) for number in range(NUM_VERSIONS + 1)]
