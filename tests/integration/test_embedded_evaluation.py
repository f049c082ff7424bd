"""The shipped model on held-out problems, with the run's verifiers in their sandboxed workers."""

import asyncio

from ring_async.actors.evaluation import evaluate_checkpoint
from ring_async.config.load import load_config
from ring_async.models import resolve_model_path


def test_the_start_is_half_way_and_repeatable() -> None:
    config = load_config("configs/local.yaml")
    model_path = resolve_model_path(config.model.path)
    evaluation = asyncio.run(evaluate_checkpoint(config, model_path, num_problems=60))
    rows = evaluation.rows()
    assert [(row.source, row.temperature) for row in rows] == [
        *(("chain_sum", 0.0), ("leg_counting", 0.0), ("all", 0.0)),
        *(("chain_sum", 1.0), ("leg_counting", 1.0), ("all", 1.0)),
    ]
    assert all(row.num_failed == 0 for row in rows)
    assert 0.35 < rows[2].accuracy < 0.75
    assert 0.35 < rows[5].accuracy < 0.75
    again = asyncio.run(evaluate_checkpoint(config, model_path, num_problems=60, temperatures=(1.0,)))
    assert again.select(1.0) == evaluation.select(1.0)
