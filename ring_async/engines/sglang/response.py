"""One response on its way through a server: the tokens received so far, and which weights each of them came from.

    prompt + tokens so far ──leg──▶ server ──chunks──▶ leg ──absorb──▶ tokens so far … until it has ended

A leg is one submission to the server. A response takes more than one when it is aborted for new weights or its server
died: the next leg begins with the prompt and all tokens that count.

Owns: that bookkeeping, pure. Does not own when legs begin and end (`engine`), nor how chunks arrive (`stream`).
Invariants: the tokens of a response are in order of sampling and each has a log-probability, a version and the age of
its keys and values; segments cover them without a gap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ring_async.columns import describe
from ring_async.core.replay.partials import PartialHeader, PartialResponse
from ring_async.engines.base import GenerationRequest
from ring_async.engines.sglang.stream import Chunk, Finish
from ring_async.types import FinishReason, Generation, Int32, PolicyVersion, Segment, UInt8

KV_AGE = "kv_age"
"""Name of the token column."""

MAX_AGE = 255
MAX_TOKENS = 1 << 30
"""More than any model reads."""
_NAN = "NaN happened"


class BrokenServerError(Exception):
    """A server said what no sound server says: not a number, or a stream that contradicts itself."""


def kv_age_of(generation: Generation) -> UInt8:
    """Its column `kv_age`, uint8 `[T]`; zeros for a generation of an engine that keeps no record.

    How many versions older than the weights that sampled the token its keys and values may be, at most; saturates at
    255. 0: computed by those very weights.
    """
    found = generation.columns.get(KV_AGE)
    return np.zeros(generation.response_ids.size, np.uint8) if found is None else found


@dataclass(slots=True, eq=False)
class Leg:
    """One submission.

    Attributes:
        request_id: of this leg alone.
        salt: version whose name salts the leg's cache: no key or value it can meet is older.
        serial: of that version at this server.
        last_serial: tokens of later weights do not count (None: all count).
        is_cut: the engine asked the server to abort it.
    """

    request_id: str
    salt: PolicyVersion
    serial: int
    last_serial: int | None = None
    is_cut: bool = False
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    serials: list[int] = field(default_factory=list)
    """Empty where the server does not tag."""
    finish: Finish | None = None
    num_retractions: int = 0

    def take(self, chunk: Chunk) -> int:
        """Add what a chunk brings; returns how many tokens were new.

        A request aborted while it waits repeats its last token, so what is new is told by the running count.

        Raises:
            BrokenServerError: the chunk contradicts those before it, or holds what is not a number.
            ValueError: the server refused the request.
        """
        if chunk.error is not None:
            if chunk.error.code == 499 or "abort" in chunk.error.message.lower():  # aborted before it began
                self.finish = Finish("abort", message=chunk.error.message)
                return 0
            raise ValueError(chunk.error.message)
        meta = chunk.meta_info
        num_new = meta.completion_tokens - len(self.ids)
        if num_new < 0 or num_new > len(chunk.output_ids):
            raise BrokenServerError(
                f"request {self.request_id}: {len(self.ids)} tokens received, {len(chunk.output_ids)} in this chunk, "
                f"{meta.completion_tokens} in all; is --incremental-streaming-output set?"
            )
        self.finish = meta.finish_reason
        self.num_retractions = max(self.num_retractions, meta.num_retractions)
        if self.finish is not None and self.finish.type == "stop" and self.finish.matched == _NAN:
            raise BrokenServerError(f"request {self.request_id}: the server's logits are not numbers")
        if num_new:
            self._add(chunk.output_ids[-num_new:], meta.output_token_logprobs[-num_new:], meta.step_tags[-num_new:])
        return num_new

    def _add(self, ids: list[int], logprobs: list[tuple[float | None, int, object]], tags: list[int | None]) -> None:
        values = [value for value, *_ in logprobs]
        if len(values) != len(ids) or any(value is None or not math.isfinite(value) for value in values):
            raise BrokenServerError(f"request {self.request_id}: log-probabilities are missing or not numbers")
        if tags and len(tags) != len(ids):
            raise BrokenServerError(f"request {self.request_id}: {len(tags)} step tags for {len(ids)} tokens")
        self.ids += ids
        self.logprobs += [value for value in values if value is not None]
        self.serials += [self.serial if tag is None else tag for tag in tags]


@dataclass(slots=True, eq=False)
class Response:
    """The response to one request, over all its legs.

    Example:
        response = Response(request, stop_ids=frozenset({2}))
        leg = Leg("7.", salt=version, serial=3)
        …chunks are taken…
        response.absorb(leg, versions={3: version})
        reason = response.ended(leg)     # None: submit `input_ids` again
    """

    request: GenerationRequest
    stop_ids: frozenset[int]
    imposed_tokens: int | None = None
    """The length at which it stops, of whatever is sampled; None: it stops by itself."""
    is_aborted: bool = False
    num_fruitless: int = 0
    """Legs in a row that ended by no doing of the engine and brought nothing."""
    ids: list[int] = field(default_factory=list)
    _logprobs: list[float] = field(default_factory=list)
    _ages: list[int] = field(default_factory=list)
    _segments: list[Segment] = field(default_factory=list)

    def __post_init__(self) -> None:
        prefix = self.request.prefix
        if prefix is not None:
            self.ids = prefix.response_ids.tolist()
            self._logprobs = prefix.behavior_logprobs.tolist()
            self._ages = kv_age_of(prefix).tolist()
            self._segments = list(prefix.segments)

    @property
    def input_ids(self) -> list[int]:
        return [*self.request.prompt_ids.tolist(), *self.ids]

    @property
    def num_left(self) -> int:
        return min(self.request.sampling.max_tokens, self.imposed_tokens or MAX_TOKENS) - len(self.ids)

    @property
    def max_kv_age(self) -> int:
        return max(self._ages, default=0)

    def absorb(self, leg: Leg, versions: Mapping[int, PolicyVersion]) -> None:
        """Append the leg's tokens that count. Where some do not, the leg counts as cut off, however it ended.

        Args:
            leg: after its end.
            versions: by the server's serials.
        """
        runs, is_cut = _counted_runs(leg)
        if is_cut:
            leg.finish = None
        for start, end, serial in runs:
            self._append(leg, start, end, versions[serial])

    def _append(self, leg: Leg, start: int, end: int, version: PolicyVersion) -> None:
        at = len(self.ids)
        self.ids += leg.ids[start:end]
        self._logprobs += self._logprobs_of(leg, start, end)
        self._ages += [age(version, leg.salt)] * (end - start)
        if self._segments and self._segments[-1].policy_version == version:
            at = self._segments.pop().start
        self._segments.append(Segment(at, len(self.ids), version))

    def _logprobs_of(self, leg: Leg, start: int, end: int) -> list[float]:
        return [0.0] * (end - start) if self.request.sampling.temperature == 0 else leg.logprobs[start:end]

    def sampled(self, since: int, leg: Leg | None, versions: Mapping[int, PolicyVersion]) -> PartialResponse | None:
        """The tokens from `since` on, those of the present leg among them; None if there are none."""
        ids, logprobs, ages = self.ids[since:], self._logprobs[since:], self._ages[since:]
        segments = [Segment(max(since, one.start), one.end, one.policy_version) for one in self._segments]
        if leg is not None:
            absorbed = len(self.ids)
            for start, end, serial in _counted_runs(leg)[0]:
                first = max(start, since - absorbed)
                ids += leg.ids[first:end]
                logprobs += self._logprobs_of(leg, first, end)
                ages += [age(versions[serial], leg.salt)] * max(0, end - first)
                segments.append(Segment(absorbed + first, absorbed + end, versions[serial]))
        if not ids:
            return None
        columns = {KV_AGE: np.array(ages, np.uint8)}
        covering = tuple(one for one in segments if one.start < one.end)
        header = PartialHeader(self.request.request_id, since, len(ids), covering, describe(columns))
        ones = np.ones(len(ids), np.uint8)
        return PartialResponse(header, np.array(ids, np.int32), np.array(logprobs, np.float32), ones, columns)

    def ended(self, leg: Leg) -> FinishReason | None:
        """How the response ended with this leg; None: it goes on."""
        if self.ids and self.ids[-1] in self.stop_ids:
            return "stop"
        if self.num_left <= 0:
            return "length" if len(self.ids) >= self.request.sampling.max_tokens else "stop"
        if leg.finish is None or leg.finish.type == "abort":
            return None
        return "stop" if leg.finish.type == "stop" else "length"

    def generation(self, finish_reason: FinishReason) -> Generation:
        ids: Int32 = np.array(self.ids, np.int32)
        return Generation(
            response_ids=ids,
            behavior_logprobs=np.array(self._logprobs, np.float32),
            segments=tuple(self._segments),
            finish_reason=finish_reason,
            columns={KV_AGE: np.array(self._ages, np.uint8)},
        )

    @property
    def partial(self) -> Generation | None:
        """What there is, to go on with; None where nothing is."""
        return self.generation("length") if self.ids else None


def _counted_runs(leg: Leg) -> tuple[list[tuple[int, int, int]], bool]:
    """The tokens of a leg that count, as runs (start, end, serial) of one version each; and whether others do not."""
    serials = np.asarray(leg.serials or [leg.serial] * len(leg.ids), np.int64)
    num_tokens = serials.size
    if leg.last_serial is not None and (late := np.flatnonzero(serials > leg.last_serial)).size:
        serials = serials[: late[0]]
    borders = [*np.flatnonzero(np.diff(serials, prepend=-1)).tolist(), serials.size]
    runs = [(start, end, int(serials[start])) for start, end in itertools.pairwise(borders)]
    return runs, serials.size < num_tokens


def age(sampled_by: PolicyVersion, computed_by: PolicyVersion) -> int:
    """Versions between the weights that sampled a token and the oldest that may have computed its cache."""
    if sampled_by.incarnation != computed_by.incarnation:
        return MAX_AGE
    return min(MAX_AGE, max(0, sampled_by.number - computed_by.number))
