"""Continuous batching of one transformers model: admit, read prompts, sample one token for everyone, swap weights.

Owns: the running requests, their rows in the cache, and which weights sampled which token. Synchronous; knows no
threads, no asyncio (`embedded.engine` drives it).

Invariants:
* Running requests lie in rows `[0, num_running)`; the request of the last row moves into a row that falls free.
* The cache of a row holds every token but the last, which is the input of the next step. So all tokens are sampled on
  one path, after admission, resumption and re-prefill.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ring_async.core.replay.partials import PartialResponse, piece_of
from ring_async.engines.base import GenerationRequest, OnUpdate, SwapReport
from ring_async.engines.embedded.kv_cache import DecodeView, PrefillView, RowCache
from ring_async.engines.embedded.sampling import sample, uniforms
from ring_async.errors import WeightsError
from ring_async.types import FinishReason, Generation, PolicyVersion, Segment

_PREFILL_TOKENS = 8192
"""Most tokens, padding included, that one forward pass reads: bounds its memory."""


@dataclass(slots=True)
class _Running:
    request: GenerationRequest
    open_version: PolicyVersion
    open_start: int = 0
    """The open segment runs from here under `open_version`."""
    closed: list[Segment] = field(default_factory=list)


class Batcher:
    """Samples many requests at once from one model.

    Args:
        model: a transformers causal language model with full attention, in eval mode.
        stop_ids: tokens that end a response.
    """

    def __init__(
        self,
        model: Any,
        stop_ids: Iterable[int],
        max_running_requests: int,
        policy_version: PolicyVersion | None = None,
    ) -> None:
        config = model.config.get_text_config()
        self.model = model
        self.policy_version = policy_version
        self.max_running_requests = max_running_requests
        self.max_sequence_tokens = int(config.max_position_embeddings)
        self.generated_tokens = 0
        self._device = model.device
        self._cache = RowCache(
            num_layers=config.num_hidden_layers,
            num_rows=max_running_requests,
            num_kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            dtype=model.dtype,
            device=model.device,
        )
        self._stops = np.zeros(config.vocab_size, dtype=bool)
        self._stops[list(stop_ids)] = True
        self._waiting: deque[GenerationRequest] = deque()
        self._running: list[_Running] = []
        rows = max_running_requests
        self._tokens = np.zeros((rows, self._cache.num_positions), dtype=np.int32)
        self._logprobs = np.zeros((rows, self._cache.num_positions), dtype=np.float32)
        self._lengths = np.zeros(rows, dtype=np.int64)
        self._prompt_lengths = np.zeros(rows, dtype=np.int64)
        self._limits = np.zeros(rows, dtype=np.int64)
        self._seeds = np.zeros(rows, dtype=np.uint64)
        self._temperatures = np.ones(rows, dtype=np.float32)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; it runs as soon as a row is free.

        Raises:
            ValueError: it can never run: empty, too long for the model, or its prefix is already whole.
        """
        where = f"request {request.request_id}"
        longest = request.prompt_ids.size + request.sampling.max_tokens
        if request.prompt_ids.size == 0:
            raise ValueError(f"{where}: the prompt has no tokens")
        if longest > self.max_sequence_tokens:
            raise ValueError(
                f"{where}: {request.prompt_ids.size} prompt tokens and up to {request.sampling.max_tokens} sampled "
                f"ones are more than the model's {self.max_sequence_tokens} positions"
            )
        if request.prefix is not None and request.prefix.response_ids.size >= request.sampling.max_tokens:
            raise ValueError(
                f"{where}: its prefix already holds {request.sampling.max_tokens} tokens, the most allowed"
            )
        self._waiting.append(request)

    def step(self) -> list[tuple[str, Generation]]:
        """Admit what fits, sample one token for every running request, and return those that ended."""
        self._admit()
        num_rows = len(self._running)
        if num_rows == 0:
            return []
        rows = np.arange(num_rows)
        lengths = self._lengths[:num_rows]
        tokens, logprobs = self._decode(num_rows)
        self._tokens[rows, lengths] = tokens
        self._logprobs[rows, lengths] = logprobs
        lengths += 1
        self.generated_tokens += num_rows
        has_stopped = self._stops[tokens]
        has_ended = has_stopped | (lengths >= self._limits[:num_rows])
        ended = []
        for row in np.flatnonzero(has_ended)[::-1].tolist():
            generation = self._generation(row, "stop" if has_stopped[row] else "length")
            ended.append((self._running[row].request.request_id, generation))
            self._vacate(row)
        return ended

    def abort(self, request_ids: Iterable[str] | None = None) -> list[tuple[str, Generation | None]]:
        """Remove these requests (None: all); returns what each had sampled, None for one that had sampled nothing."""
        wanted = None if request_ids is None else set(request_ids)
        aborted: list[tuple[str, Generation | None]] = []
        for row in reversed(range(len(self._running))):
            request_id = self._running[row].request.request_id
            if wanted is None or request_id in wanted:
                aborted.append((request_id, self._partial(row)))
                self._vacate(row)
        kept: deque[GenerationRequest] = deque()
        for request in self._waiting:
            if wanted is None or request.request_id in wanted:
                aborted.append((request.request_id, request.prefix))
            else:
                kept.append(request)
        self._waiting = kept
        return aborted

    def sampled(self, since: Mapping[str, int]) -> list[PartialResponse]:
        """The tokens that these requests have beyond a position, copied; none for one that waits."""
        pieces = []
        for row, running in enumerate(self._running):
            request_id = running.request.request_id
            end = int(self._lengths[row] - self._prompt_lengths[row])
            if since.get(request_id, end) < end:
                pieces.append(piece_of(request_id, self._generation(row, "length"), since[request_id], end))
        return pieces

    def swap(
        self, policy_version: PolicyVersion, tensors: Mapping[str, Any], on_update: OnUpdate
    ) -> tuple[SwapReport, list[tuple[str, Generation | None]]]:
        """Swap new weights in between two tokens; also returns the requests that `abort` ended.

        Raises:
            WeightsError: names or shapes do not fit; nothing was changed.
        """
        began = time.perf_counter()
        targets = self._targets(policy_version, tensors)
        num_in_flight = len(self._running)
        aborted = self.abort([running.request.request_id for running in self._running]) if on_update == "abort" else []
        for target, tensor in targets:
            target.copy_(tensor)
        self.policy_version = policy_version
        for row in range(len(self._running)):
            self._open_segment(row)
        if on_update == "reprefill":
            self._prefill(list(range(len(self._running))))
        return SwapReport(policy_version, time.perf_counter() - began, num_in_flight), aborted

    def _targets(
        self, policy_version: PolicyVersion, tensors: Mapping[str, Any]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The pairs of (parameter, new value), all checked before any is written."""
        known = dict(self.model.named_parameters(remove_duplicate=False))
        needed = {name for name, _ in self.model.named_parameters()}
        missing, unknown = needed - tensors.keys(), tensors.keys() - known.keys()
        if missing or unknown:
            raise WeightsError(
                f"version {policy_version}: "
                + "; ".join(
                    f"{len(names)} tensors {what}, e.g. {min(names)}"
                    for what, names in (("missing", missing), ("unknown to the model", unknown))
                    if names
                )
            )
        targets = []
        for name in sorted(needed):
            tensor = torch.as_tensor(tensors[name])
            if tensor.shape != known[name].shape:
                raise WeightsError(
                    f"version {policy_version}: {name} has shape {tuple(tensor.shape)}, "
                    f"the model's is {tuple(known[name].shape)}"
                )
            targets.append((known[name], tensor))
        return targets

    def _admit(self) -> None:
        admitted = []
        while self._waiting and len(self._running) < self.max_running_requests:
            admitted.append(self._place(self._waiting.popleft()))
        if admitted:
            self._prefill(admitted)

    def _place(self, request: GenerationRequest) -> int:
        """Give a request the next row and lay its known tokens there."""
        row = len(self._running)
        self._running.append(_Running(request, self._version()))
        num_prompt = request.prompt_ids.size
        self._reserve(num_prompt + request.sampling.max_tokens)
        self._tokens[row, :num_prompt] = request.prompt_ids
        self._lengths[row] = self._prompt_lengths[row] = num_prompt
        self._limits[row] = num_prompt + request.sampling.max_tokens
        self._seeds[row] = request.seed & 0xFFFF_FFFF_FFFF_FFFF
        self._temperatures[row] = request.sampling.temperature
        if request.prefix is not None:
            end = num_prompt + request.prefix.response_ids.size
            self._tokens[row, num_prompt:end] = request.prefix.response_ids
            self._logprobs[row, num_prompt:end] = request.prefix.behavior_logprobs
            self._lengths[row] = end
            *closed, last = request.prefix.segments
            self._running[row].closed = closed
            self._running[row].open_start = last.start
            self._running[row].open_version = last.policy_version
        self._open_segment(row)
        return row

    def _reserve(self, num_positions: int) -> None:
        self._cache.reserve(num_positions)
        more = self._cache.num_positions - self._tokens.shape[1]
        if more > 0:
            self._tokens = np.pad(self._tokens, ((0, 0), (0, more)))
            self._logprobs = np.pad(self._logprobs, ((0, 0), (0, more)))

    def _open_segment(self, row: int) -> None:
        """Begin a segment: from here on, tokens of this row come from the present weights."""
        running = self._running[row]
        version = self._version()
        num_sampled = int(self._lengths[row] - self._prompt_lengths[row])
        if num_sampled > running.open_start and running.open_version != version:
            running.closed.append(Segment(running.open_start, num_sampled, running.open_version))
            running.open_start = num_sampled
        running.open_version = version

    def _version(self) -> PolicyVersion:
        if self.policy_version is None:
            raise WeightsError("no weights are in force yet; swap a version in before generating")
        return self.policy_version

    def _prefill(self, rows: list[int]) -> None:
        """Compute the cache of these rows anew, for every known token but the last."""
        by_length = sorted(rows, key=lambda row: int(self._lengths[row]))
        while by_length:
            chunk = [by_length.pop()]
            longest = int(self._lengths[chunk[0]]) - 1
            while by_length and (len(chunk) + 1) * longest <= _PREFILL_TOKENS:
                chunk.append(by_length.pop())
            if longest > 0:
                self._prefill_chunk(np.array(chunk), longest)

    def _prefill_chunk(self, rows: np.ndarray, longest: int) -> None:
        positions = torch.arange(longest, device=self._device)
        self.model.base_model(
            input_ids=self._to_device(self._tokens[rows, :longest]).long(),
            attention_mask=(positions <= positions.unsqueeze(1))[None, None],
            position_ids=positions.expand(len(rows), longest),
            past_key_values=PrefillView(self._cache, self._to_device(rows)),
            use_cache=True,
        )

    def _decode(self, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample one token for each of the first rows: ids int64 `[R]`, log-probabilities float32 `[R]`."""
        lengths = self._lengths[:num_rows]
        positions = self._to_device(lengths - 1)
        num_positions = int(lengths.max())
        reach = torch.arange(num_positions, device=self._device)
        logits = self.model(
            input_ids=self._to_device(self._tokens[np.arange(num_rows), lengths - 1]).long().unsqueeze(1),
            attention_mask=(reach <= positions.unsqueeze(1))[:, None, None],
            position_ids=positions.unsqueeze(1),
            past_key_values=DecodeView(self._cache, positions, num_positions),
            use_cache=True,
        ).logits[:, 0]
        draws = uniforms(self._seeds[:num_rows], lengths - self._prompt_lengths[:num_rows])
        tokens, logprobs = sample(logits, self._to_device(self._temperatures[:num_rows]), self._to_device(draws))
        return tokens.cpu().numpy(), logprobs.cpu().numpy()

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _partial(self, row: int) -> Generation | None:
        return self._generation(row, "length") if self._lengths[row] > self._prompt_lengths[row] else None

    def _generation(self, row: int, finish_reason: FinishReason) -> Generation:
        running = self._running[row]
        start, end = int(self._prompt_lengths[row]), int(self._lengths[row])
        segments = running.closed
        if end - start > running.open_start:
            segments = [*segments, Segment(running.open_start, end - start, running.open_version)]
        return Generation(
            self._tokens[row, start:end].copy(), self._logprobs[row, start:end].copy(), tuple(segments), finish_reason
        )

    def _vacate(self, row: int) -> None:
        """Free a row; the request of the last row moves into it."""
        last = len(self._running) - 1
        if row != last:
            for array in (
                self._tokens, self._logprobs, self._lengths, self._prompt_lengths,
                self._limits, self._seeds, self._temperatures,
            ):  # fmt: skip
                array[row] = array[last]
            self._running[row] = self._running[last]
            self._cache.move_row(last, row, int(self._lengths[last]))
        self._running.pop()
