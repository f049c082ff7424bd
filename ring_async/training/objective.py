"""What every trainer minimizes: one microbatch's scores become its share of the loss, and statistics.

    model ──Score (log π_θ, entropy, log π_ref)──▶ objective.loss ──▶ MicrobatchLoss.total ──backward──▶ gradient
                                                         └──────────▶ MicrobatchLoss.columns ──▶ statistics of the batch

Owns: the two kinds of objective, `rl` (the corrected policy gradient) and `sft` (cross-entropy), what each needs of a
forward, and the state of `rl` that outlives a batch (mismatch moments). Does not own: the forward, the optimizer, the
formulas themselves (`algorithms`).

Invariants:
* `divisor` is the global Φ of the optimizer step (Φ/M with M steps a batch; for `sft` the global number of loss
  tokens), a constant over microbatches, rows and data-parallel ranks: shares of the loss, and their gradients, add up;
* tokens without loss contribute exactly 0, to the loss and to the gradient;
* statistics are detached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ring_async.algorithms.corrections import Correction, TokenBatch, correct, m2po_mask
from ring_async.algorithms.logprobs import bounded_log_ratio
from ring_async.algorithms.losses import batch_loss, cross_entropy_loss
from ring_async.algorithms.mismatch import MismatchMoments
from ring_async.algorithms.proximal import loglinear_proximal
from ring_async.algorithms.statistics import BatchStatistics, CrossEntropyStatistics, rl_columns, sft_columns
from ring_async.config.learning import LossSection
from ring_async.training.batch_tensors import BatchTensors

ObjectiveKind = Literal["rl", "sft"]


@dataclass(frozen=True, slots=True)
class Score:
    """What forwards say of the T scored tokens of one microbatch. Nats, of the tempered distribution.

    Attributes:
        policy_logprobs: log π_θ `[T]`, with gradient.
        entropy: `[T]`, with gradient where `Objective.needs_entropy_grad`; None where nobody computed it.
        reference_logprobs: log π_ref `[T]`, no gradient; None without a reference model.
    """

    policy_logprobs: Tensor
    entropy: Tensor | None = None
    reference_logprobs: Tensor | None = None


@dataclass(frozen=True, slots=True)
class MicrobatchLoss:
    """Attributes:
    total: scalar, with gradient: this microbatch's share of the optimizer step's loss.
    columns: detached values of the loss tokens, `[number of loss tokens]` each, as `Objective.statistics` takes them.
    """

    total: Tensor
    columns: dict[str, Tensor]


class Statistics(Protocol):
    """Gathers the columns of a batch's microbatches, and summarizes them once."""

    def add(self, columns: dict[str, Tensor]) -> None: ...

    def summary(self) -> dict[str, Any]:
        """Numbers under the names of `metrics.jsonl`."""
        ...


class Objective(Protocol):
    """A kind of loss.

    A trainer's use of it, for each microbatch of each of M optimizer steps:

        positions = torch.from_numpy(microbatch.positions)
        logprobs, entropy = model.score(…, entropy_grad=objective.needs_entropy_grad)
        loss = objective.loss(Score(logprobs, entropy), tensors, positions, sequence_ids, divisor=token_budget / M)
        loss.total.backward()
        statistics.add(loss.columns)
    """

    @property
    def kind(self) -> ObjectiveKind: ...

    @property
    def needs_entropy_grad(self) -> bool:
        """Whether the entropy is part of the loss."""
        ...

    def loss(
        self,
        score: Score,
        tensors: BatchTensors,
        positions: Tensor,
        sequence_ids: Tensor,
        *,
        divisor: float,
        progress: float = 0.0,
    ) -> MicrobatchLoss:
        """One microbatch's share of the loss.

        Args:
            score: of the scored tokens.
            tensors: the batch; `is_loss` says which tokens carry loss in this optimizer step.
            positions: int64 `[T]`, where the scored tokens lie in the batch.
            sequence_ids: int64 `[T]`, 0 … S−1, which sequence of the microbatch a scored token is of.
            divisor: global number of loss tokens of the optimizer step.
            progress: share of the batch's optimizer steps taken before this one, in [0, 1).
        """
        ...


class RlObjective:
    """Kind `rl`: surrogate of a correction rule, KL penalty, entropy bonus.

    Args:
        correction: the rule with its numbers; may be replaced between two batches.
        loss: coefficients; likewise.
        num_minibatches: M, optimizer steps a batch.

    Attributes:
        mismatch: running moments of engine against learner, part of a checkpoint (`icepop_on: mismatch` reads them).
    """

    kind: Literal["rl"] = "rl"

    def __init__(self, correction: Correction, loss: LossSection, num_minibatches: int) -> None:
        self.correction = correction
        self.settings = loss
        self.mismatch = MismatchMoments()
        self._num_minibatches = num_minibatches

    @property
    def needs_entropy_grad(self) -> bool:
        """See `Objective`."""
        return self.settings.entropy_coefficient > 0

    @property
    def needs_full_responses(self) -> bool:
        """Whether a response's other tokens must be scored beside those that carry loss."""
        return self.correction.needs_full_responses

    @property
    def recomputes_proximal(self) -> bool:
        """With M = 1 the proximal policy is the policy of the very forward that is differentiated."""
        return self._num_minibatches > 1 and self.correction.proximal == "recompute"

    @property
    def needs_first_pass(self) -> bool:
        """Whether the batch must be scored under the weights before its first gradient, for `prepare`."""
        return self.recomputes_proximal or self.correction.needs_batch_mask

    def prepare(self, tensors: BatchTensors, logprobs: Tensor) -> None:
        """Take in the first pass: fills `tensors.proximal_logprobs` and `tensors.batch_mask` where the rule needs them.

        Args:
            tensors: the batch, `is_loss` that of the whole batch.
            logprobs: float32 `[B · C]`, log-probabilities under the weights before the batch's first gradient.
        """
        if self.recomputes_proximal:
            tensors.proximal_logprobs = logprobs
        if self.correction.needs_batch_mask:
            behavior, advantages = tensors.behavior_logprobs, tensors.advantages
            finite = tensors.is_loss & logprobs.isfinite() & behavior.isfinite() & advantages.isfinite()
            log_ratio = torch.where(finite, bounded_log_ratio(logprobs, behavior), 0.0)
            tensors.batch_mask = m2po_mask(log_ratio, advantages, finite, self.correction.tau)

    def loss(
        self,
        score: Score,
        tensors: BatchTensors,
        positions: Tensor,
        sequence_ids: Tensor,
        *,
        divisor: float,
        progress: float = 0.0,
    ) -> MicrobatchLoss:
        """See `Objective.loss`.

        Raises:
            ValueError: the score lacks the entropy.
        """
        if score.entropy is None:
            raise ValueError("the rl objective reports the entropy: score the microbatch with it")
        policy = score.policy_logprobs
        behavior, staleness = tensors.behavior_logprobs[positions], tensors.token_staleness[positions]
        known = tensors.proximal_logprobs[positions] if tensors.proximal_logprobs is not None else None
        # Without a first pass π_prox is the policy itself up to the batch's first optimizer step, and unknown after it.
        versions_ahead = progress if known is None else 0.0
        proximal = policy.detach() if known is None else known
        mismatch = None
        if versions_ahead > 0 or self._bounds_mismatch:
            mismatch = self.mismatch.estimate(
                bounded_log_ratio(proximal, behavior), staleness.double() + versions_ahead
            )
        if versions_ahead > 0:
            proximal = self._interpolated(proximal, behavior, staleness, versions_ahead, mismatch)
        tokens = TokenBatch(
            policy_logprobs=policy,
            proximal_logprobs=proximal,
            behavior_logprobs=behavior,
            advantages=tensors.advantages[positions],
            is_loss=tensors.is_loss[positions],
            sequence_ids=sequence_ids,
            token_staleness=staleness,
            batch_mask=tensors.batch_mask[positions] if tensors.batch_mask is not None else None,
            mismatch_log_ratio=mismatch if self._bounds_mismatch else None,
        )
        corrected = correct(tokens, self.correction)
        loss = batch_loss(
            tokens, corrected, score.entropy, score.reference_logprobs, settings=self.settings, divisor=divisor
        )
        columns = rl_columns(tokens, corrected, score.entropy, loss.kl, interpolated_versions=versions_ahead)
        return MicrobatchLoss(loss.total, columns | {"position": positions[tokens.is_loss]})

    @property
    def _bounds_mismatch(self) -> bool:
        return self.correction.rule == "icepop" and self.correction.icepop_on == "mismatch"

    @staticmethod
    def _interpolated(
        policy: Tensor, behavior: Tensor, staleness: Tensor, versions_ahead: float, mismatch: Tensor | None
    ) -> Tensor:
        """`loglinear`'s log π_prox `[T]`.

        Before there is an estimate of the mismatch, all that learner and engine disagree about a token of staleness 0
        counts as mismatch: what part of a batch has taught is the smaller part.
        """
        if mismatch is None:
            mismatch = torch.where(staleness == 0, bounded_log_ratio(policy, behavior), 0.0)
        return loglinear_proximal(policy, behavior, staleness, versions_ahead, mismatch)

    def statistics(self) -> BatchStatistics:
        """Empty statistics for the columns of one batch."""
        return BatchStatistics()


class SftObjective:
    """Kind `sft`: cross-entropy of the loss tokens, with an optional entropy bonus.

    Needs neither behavior log-probabilities nor advantages: the rows may hold zeros there. Temperatures of the rows
    apply, as the forward divides logits by them; they are 1 in supervised rows.

    Args:
        entropy_coefficient: of the entropy bonus; 0: none.
    """

    kind: Literal["sft"] = "sft"

    def __init__(self, entropy_coefficient: float = 0.0) -> None:
        self._entropy_coefficient = entropy_coefficient

    @property
    def needs_entropy_grad(self) -> bool:
        """See `Objective`."""
        return self._entropy_coefficient > 0

    def loss(
        self,
        score: Score,
        tensors: BatchTensors,
        positions: Tensor,
        sequence_ids: Tensor,
        *,
        divisor: float,
        progress: float = 0.0,
    ) -> MicrobatchLoss:
        """See `Objective.loss`; `sequence_ids` and `progress` change nothing here.

        A non-finite log-probability of a loss token makes the loss non-finite: supervised tokens are ours, so that is
        divergence of the model and never a fault of the data's sampling.

        Raises:
            ValueError: an entropy bonus is wanted and the score lacks the entropy.
        """
        del sequence_ids, progress
        is_loss = tensors.is_loss[positions]
        total = cross_entropy_loss(score.policy_logprobs, is_loss, divisor)
        if self._entropy_coefficient > 0:
            if score.entropy is None:
                raise ValueError("an entropy bonus is wanted: score the microbatch with the entropy")
            total = total - self._entropy_coefficient * score.entropy[is_loss].sum() / divisor
        return MicrobatchLoss(total, sft_columns(score.policy_logprobs, score.entropy, is_loss))

    def statistics(self) -> CrossEntropyStatistics:
        """Empty statistics for the columns of one batch."""
        return CrossEntropyStatistics()
