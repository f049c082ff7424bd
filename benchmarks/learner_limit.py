"""The limit that bench-learner is measured against: the learner's whole step in plain PyTorch, and the common way.

`plain_step`: fused QKV and gate/up products, compiled blocks, `varlen_attn`, grouped experts, float32 master weights
and gradients, IcePop with entropy, clip, fused AdamW. No real data path, no reports. `common_step`: transformers with
padded batches, eager, whole logits.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as torch's own code calls it
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from learner_shapes import Shape, lengths_of
from ring_async.batches import PackedBatch
from ring_async.training.hf.precision import MasterWeights
from ring_async.training.hf.varlen import PackedSequences, attend

HEAD_TOKENS = 4096


class _Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-6)


class _Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.head_width
        self.qkv = nn.Linear(shape.hidden, (shape.heads + 2 * shape.kv_heads) * width, bias=False)
        self.out = nn.Linear(shape.heads * width, shape.hidden, bias=False)
        self.query_norm, self.key_norm = _Norm(width), _Norm(width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], sequences: PackedSequences) -> Tensor:
        shape, num = self.shape, x.shape[0]
        sizes = [shape.heads * shape.head_width] + [shape.kv_heads * shape.head_width] * 2
        query, key, value = (part.view(num, -1, shape.head_width) for part in self.qkv(x).split(sizes, -1))
        query, key = _rotate(self.query_norm(query), rotation), _rotate(self.key_norm(key), rotation)
        return self.out(_attention(query, key, value, sequences).reshape(num, -1))


def _attention(query: Tensor, key: Tensor, value: Tensor, sequences: PackedSequences) -> Tensor:
    """`[U, H, D]`. On a GPU the kernel is part of the compiled block: all rows have `starts` of one length."""
    if not query.is_cuda:
        states = (state.transpose(0, 1)[None] for state in (query, key, value))
        return attend(nn.Identity(), *states, None, **sequences.arguments())[0][0]
    from torch.nn.attention.varlen import varlen_attn

    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
    starts, longest = sequences.starts, sequences.longest
    return varlen_attn(query, key, value, starts, starts, longest, longest, window_size=(-1, 0))


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    one, other = x.chunk(2, -1)
    return torch.cat((one * cos - other * sin, other * cos + one * sin), -1).to(x.dtype)


class _Dense(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_up = nn.Linear(shape.hidden, 2 * shape.width, bias=False)
        self.down = nn.Linear(shape.width, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class _Experts(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.router = nn.Parameter(torch.randn(shape.experts, shape.hidden) * 0.02)
        self.gate_up = nn.Parameter(torch.randn(shape.experts, shape.hidden, 2 * shape.width) * 0.02)
        self.down = nn.Parameter(torch.randn(shape.experts, shape.width, shape.hidden) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = (x.float() @ self.router.float().t()).softmax(-1).topk(self.shape.experts_per_token, -1)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype).flatten()
        order = chosen.flatten().argsort(stable=True)
        token = order // self.shape.experts_per_token
        ends = torch.bincount(chosen.flatten(), minlength=self.shape.experts).cumsum(0).to(torch.int32)
        gate, up = F.grouped_mm(x[token], self.gate_up, offs=ends).chunk(2, -1)
        outputs = F.grouped_mm(F.silu(gate) * up, self.down, offs=ends) * weights[order][:, None]
        return torch.zeros_like(x).index_add(0, token, outputs)


class _Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.first, self.second = _Norm(shape.hidden), _Norm(shape.hidden)
        self.attention = _Attention(shape)
        self.mlp = _Experts(shape) if shape.experts else _Dense(shape)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], sequences: PackedSequences) -> Tensor:
        x = x + self.attention(self.first(x), rotation, sequences)
        return x + self.mlp(self.second(x))


class _Model(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.hidden)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.layers))
        self.norm = _Norm(shape.hidden)
        self.head = self.embedding if shape.is_tied else nn.Embedding(shape.vocabulary, shape.hidden)


def _icepop(hidden: Tensor, weight: Tensor, targets: Tensor, advantages: Tensor, behavior: Tensor) -> Tensor:
    logits = (hidden @ weight.t()).float()
    normalizer = logits.logsumexp(-1)
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - normalizer
    with torch.no_grad():
        entropy = normalizer - (logits.softmax(-1) * logits).sum(-1)
        ratio = (logprobs - behavior).exp()
        ratio = torch.where((ratio > 0.5) & (ratio < 5.0), ratio, 0.0)
    policy_ratio = (logprobs - logprobs.detach()).exp()
    clipped = torch.minimum(policy_ratio * advantages, policy_ratio.clamp(0.8, 1.2) * advantages)
    return -(ratio * clipped).sum() + 0.0 * entropy.sum()


def plain_step(shape: Shape, batch: PackedBatch, device: str, *, recompute: bool, backend: str) -> Callable[[], None]:
    """A function that takes one optimizer step on a batch's rows, whole rows filled to the last token."""
    torch.manual_seed(0)
    with torch.device(device):
        model = _Model(shape)
    master = MasterWeights(model)
    optimizer = torch.optim.AdamW(master.parameters.values(), lr=1e-6, fused=True)
    blocks = [torch.compile(block, dynamic=False, backend=backend) for block in model.blocks]
    score = torch.compile(_icepop, dynamic=False, backend=backend)
    num_sequences = 1 + max(Counter(one.row for one in batch.plan.sequences).values())
    rows = [_row(shape, batch, row, num_sequences, device) for row in range(batch.plan.num_rows)]
    divisor = batch.plan.token_budget

    def step() -> None:
        for ids, rotation, sequences in rows:
            x = model.embedding(ids)
            for block in blocks:
                call = functools.partial(checkpoint, block, use_reentrant=False) if recompute else block
                x = call(x, rotation, sequences)
            x = model.norm(x)
            total = torch.zeros((), device=device)
            for start in range(0, len(ids), HEAD_TOKENS):
                part = slice(start, start + HEAD_TOKENS)
                ones = torch.ones(len(ids[part]), device=device)
                behavior = -ones * float(np.log(shape.vocabulary))
                arguments = (x[part], model.head.weight, ids[part], ones, behavior)
                total = total + checkpoint(score, *arguments, use_reentrant=False)
            (total / divisor).backward()
        nn.utils.clip_grad_norm_(master.parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        master.refresh()

    return step


def _row(
    shape: Shape, batch: PackedBatch, row: int, num_sequences: int, device: str
) -> tuple[Tensor, tuple[Tensor, Tensor], PackedSequences]:
    """A row's tokens, their rotation and its sequences, empty ones behind; what is free at its end is one too."""
    ids = torch.from_numpy(batch.input_ids[row].astype(np.int64)).to(device)
    members = [one for one in batch.plan.sequences if one.row == row]
    lengths = [one.num_prompt_tokens + one.num_response_tokens for one in members]
    lengths.append(len(ids) - sum(lengths))
    lengths += [0] * (num_sequences - len(lengths))
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device)
    positions = torch.cat([torch.arange(length) for length in lengths]).to(device).float()
    frequencies = 1 / (1e6 ** (torch.arange(0, shape.head_width, 2, device=device) / shape.head_width))
    angles = (positions[:, None] * frequencies)[:, None]
    rotation = (angles.cos().to(torch.bfloat16), angles.sin().to(torch.bfloat16))
    return ids, rotation, PackedSequences(None, None, starts, max(lengths_of(batch)))


def row_flops(shape: Shape, batch: PackedBatch) -> float:
    """Counted work of `plain_step`: its rows are full, and every token is scored."""
    lengths = lengths_of(batch)
    num_tokens = batch.plan.num_rows * batch.plan.token_capacity
    free = num_tokens - sum(lengths)
    return shape.flops([*lengths, free], num_tokens)


def common_step(shape: Shape, batch: PackedBatch, device: str, padded_tokens: int) -> Callable[[], int]:
    """A function that takes one step the common way on the batch's first sequences; returns their loss tokens."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(shape.config(), dtype=torch.bfloat16, attn_implementation="sdpa")
    master = MasterWeights(model)
    optimizer = torch.optim.AdamW(master.parameters.values(), lr=1e-6, fused=True)
    sequences = batch.plan.sequences[:16]

    def step() -> int:
        done = 0
        left = list(sequences)
        while left:
            width, members = 0, []
            while left and (len(members) + 1) * max(width, _length(left[0])) <= max(padded_tokens, _length(left[0])):
                members.append(left.pop(0))
                width = max(width, _length(members[-1]))
            ids = torch.zeros(len(members), width, dtype=torch.long)
            seen = torch.zeros(len(members), width, dtype=torch.long)
            for place, one in enumerate(members):
                end = one.offset + _length(one)
                ids[place, : _length(one)] = torch.from_numpy(
                    batch.input_ids[one.row, one.offset : end].astype(np.int64)
                )
                seen[place, : _length(one)] = 1
            ids, seen = ids.to(device), seen.to(device)
            logits = model(input_ids=ids, attention_mask=seen).logits[:, :-1].float()
            logprobs = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            (-(logprobs * seen[:, 1:]).sum() / batch.plan.token_budget).backward()
            done += sum(one.num_response_tokens for one in members)
        nn.utils.clip_grad_norm_(master.parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        master.refresh()
        return done

    return step


def _length(sequence: Any) -> int:
    return sequence.num_prompt_tokens + sequence.num_response_tokens
