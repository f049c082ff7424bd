"""BailingMoE v1 from the trainer into the embedded engine: at equal weights both give a token the same probability."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rank_process import make_batch, settings
from ring_async.engines.base import GenerationRequest
from ring_async.engines.embedded.batcher import Batcher
from ring_async.models.causal_lm import load_causal_lm
from ring_async.testing.builders import make_config
from ring_async.testing.packed_batches import SequenceSpec, pack_sequences
from ring_async.training.hf.engine import HfTrainEngine
from ring_async.types import Generation, PolicyVersion, SamplingParams
from tiny_models import VOCABULARY, write_tiny_bailing


def test_a_trained_version_reaches_the_embedded_engine(tmp_path: Path):
    folder = write_tiny_bailing(tmp_path)
    trainer = HfTrainEngine(make_config(**settings(1)), folder)
    trainer.train_batch(make_batch(0, 1))
    version = PolicyVersion(0, 1)
    requests = [
        GenerationRequest(f"r{i}", np.arange(i, i + 4, dtype=np.int32), SamplingParams(max_tokens=12), seed=i)
        for i in range(VOCABULARY - 4)
    ]
    found: dict[str, Generation] = {}
    with torch.inference_mode():
        model = load_causal_lm(folder, dtype=torch.float32, attention="sdpa").eval()
        batcher = Batcher(model, (), 4, PolicyVersion(0, 0))
        batcher.swap(version, dict(trainer.snapshot().tensors()), "keep")
        for request in requests:
            batcher.submit(request)
        while batcher.has_work:
            found.update(batcher.step())
    specs = [
        SequenceSpec(
            prompt_ids=request.prompt_ids.tolist(),
            response_ids=found[request.request_id].response_ids.tolist(),
            behavior_logprobs=found[request.request_id].behavior_logprobs.tolist(),
        )
        for request in requests
    ]
    batch = pack_sequences(specs, token_capacity=48)
    is_response = batch.loss_mask == 1
    assert is_response.sum() == 12 * len(requests)
    assert np.abs(trainer.logprobs(batch) - batch.behavior_logprobs)[is_response].max() < 1e-4
