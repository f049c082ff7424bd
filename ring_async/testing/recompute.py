"""Are the versions that an engine claims for each token true? Log-probabilities computed again, on the same device.

A leg's first tokens and those after a swap are forwarded with the weights they claim; where keys and values are older
than the weights (`keep`), the same mixture is built: old weights read the context up to the swap, new ones go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ring_async.engines.base import GenerationRequest
from ring_async.engines.sglang.response import kv_age_of
from ring_async.types import Float32, Generation, PolicyVersion

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Exactness:
    """Over all tokens compared. `claimed`: |Δ log-probability| under the version a token claims; `other`: under the
    nearest other version, fresh; `edge`: the first and last tokens around each swap, under their claims.
    """

    claimed: Float32
    other: Float32
    edge: Float32

    def row(self) -> dict[str, float]:
        def of(values: Float32) -> dict[str, float]:
            if not values.size:
                return {"mean": float("nan"), "p99": float("nan"), "max": float("nan")}
            return {"mean": float(values.mean()), "p99": float(np.quantile(values, 0.99)), "max": float(values.max())}

        rows = {"claimed": self.claimed, "other": self.other, "edge": self.edge}
        figures = {f"{name}_{key}": round(value, 6) for name, row in rows.items() for key, value in of(row).items()}
        return {"tokens": float(self.claimed.size), **figures}


class Judge:
    """Holds one model (of transformers) and puts one version after the other into it."""

    def __init__(self, model: Any, versions: Mapping[PolicyVersion, Weights]) -> None:
        self.model = model
        self.versions = versions
        self._parameters = dict(model.named_parameters())
        self._loaded: PolicyVersion | None = None

    def load(self, version: PolicyVersion) -> None:
        if version != self._loaded:
            with torch.no_grad():
                for name, tensor in self.versions[version].items():
                    self._parameters[name].copy_(tensor)
            self._loaded = version

    @torch.no_grad()
    def logprobs(
        self, request: GenerationRequest, generation: Generation, plan: Sequence[tuple[int, PolicyVersion]]
    ) -> Float32:
        """float32 `[T]`: of the response's tokens, with positions `[0, end)` of the input read by the first version of
        the plan, up to the next end by the next, and so on, each over the keys and values of those before.
        """
        ids = torch.tensor([[*request.prompt_ids, *generation.response_ids]], device=self.model.device).long()
        cache, rows, start = None, [], 0
        for end, version in plan:
            if end <= start:
                continue
            self.load(version)
            reply = self.model(input_ids=ids[:, start:end], past_key_values=cache, use_cache=True)
            cache, start = reply.past_key_values, end
            rows.append(reply.logits[0].float())
        logits = torch.cat(rows)[request.prompt_ids.size - 1 :] / (request.sampling.temperature or 1.0)
        targets = ids[0, request.prompt_ids.size :]
        logprobs = torch.log_softmax(logits[: targets.numel()], dim=-1).gather(1, targets[:, None])[:, 0]
        return logprobs.cpu().numpy()


def check_exactness(judge: Judge, pairs: Sequence[tuple[GenerationRequest, Generation]], edge: int = 3) -> Exactness:
    """Compare what an engine said with what the judge finds."""
    claimed, other, edges = [], [], []
    for request, generation in pairs:
        length, prompt = generation.response_ids.size, request.prompt_ids.size
        found = np.full(length, np.nan, np.float32)
        ages = kv_age_of(generation)
        for index, segment in enumerate(generation.segments):
            version = segment.policy_version
            if ages[segment.start : segment.end].any():  # the cache up to here is of the segments before
                plan = [(prompt + one.end - 1, one.policy_version) for one in generation.segments[:index]]
                plan.append((prompt + length - 1, version))
            else:
                plan = [(prompt + length - 1, version)]
            span = slice(segment.start, segment.end)
            found[span] = judge.logprobs(request, generation, plan)[span]
            rest = [one for one in judge.versions if one != version]
            nearest = min(rest, key=lambda one: abs(one.number - version.number))
            wrong = judge.logprobs(request, generation, [(prompt + length - 1, nearest)])[span]
            other.append(np.abs(wrong - generation.behavior_logprobs[span]))
            if len(generation.segments) > 1:
                gap = np.abs(found[span] - generation.behavior_logprobs[span])
                edges += [
                    gap[:edge] if index else gap[:0],
                    gap[-edge:] if index < len(generation.segments) - 1 else gap[:0],
                ]
        claimed.append(np.abs(found - generation.behavior_logprobs))
    nothing = [np.zeros(0, np.float32)]
    return Exactness(np.concatenate(claimed), np.concatenate(other), np.concatenate(edges or nothing))
