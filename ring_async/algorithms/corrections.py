"""Staleness correction: one interface, several rules.

Owns: what every rule makes of the log-probabilities of one microbatch: the surrogate with its gradient, the weight,
and which tokens are masked or clipped and why. Does not own the sum over the batch (`losses`), the filters'
formulas (`filters`) or how the proximal log-probabilities were obtained (the train engine, `proximal`).

Invariants: a token with a non-finite input is masked and counted, and reaches neither value nor gradient; bounds are
tested
on logarithms; weights carry no gradient. Names and formulas are explained in docs/algorithm.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ring_async.algorithms.filters import FilterSettings, filtered_tokens, mean_by_sequence
from ring_async.algorithms.logprobs import bounded_log_ratio
from ring_async.config.learning import ICEPOP_BAND, CorrectionSection

RuleName = Literal["decoupled", "tis", "icepop", "kpop", "m2po", "cispo", "gspo", "ppo", "none"]

_CAPS = {"tis": 2.0}
_DEFAULT_CAP = 5.0
_CLIPS = {"gspo": (3e-4, 4e-4)}
_DEFAULT_CLIP = (0.2, 0.2)


@dataclass(frozen=True, slots=True)
class Correction:
    """A correction rule and all its parameters, defaults filled in.

    Attributes:
        rule: which surrogate is computed.
        proximal: where log π_prox comes from when it is not the detached forward itself.
        cap: C, upper bound of w (`decoupled`, `tis`, `gspo`) or of r (`cispo`).
        cap_action: what becomes of w above the cap: it is set to the cap, or to 0.
        lower: α; `icepop` masks tokens below it.
        upper: β; `icepop` masks tokens above it.
        icepop_on: whether [lower, upper] bounds w, or an estimate of the mismatch at equal version.
        phi: `kpop`'s bound on both binary KLs.
        tau: `m2po`'s bound on the mean of (log r)².
        clip_low: ε_low.
        clip_high: ε_high.
        filters: the optional masks.
    """

    rule: RuleName = "icepop"
    proximal: Literal["recompute", "loglinear"] = "recompute"
    cap: float = _DEFAULT_CAP
    cap_action: Literal["clamp", "mask"] = "clamp"
    lower: float = ICEPOP_BAND[0]
    upper: float = ICEPOP_BAND[1]
    icepop_on: Literal["behavior", "mismatch"] = "behavior"
    phi: float = 0.1
    tau: float = 0.04
    clip_low: float = _DEFAULT_CLIP[0]
    clip_high: float = _DEFAULT_CLIP[1]
    filters: FilterSettings = field(default_factory=FilterSettings)

    @classmethod
    def from_section(cls, section: CorrectionSection) -> Correction:
        """The correction that a configuration section describes; None there means the rule's own default."""
        clip_low, clip_high = _CLIPS.get(section.rule, _DEFAULT_CLIP)
        defaults = cls()

        def settled(given: float | None, default: float) -> float:
            return default if given is None else given

        return cls(
            rule=section.rule,
            proximal=section.proximal,
            cap=settled(section.cap, _CAPS.get(section.rule, _DEFAULT_CAP)),
            cap_action=section.cap_action,
            lower=settled(section.lower, defaults.lower),
            upper=settled(section.upper, defaults.upper),
            icepop_on=section.icepop_on,
            phi=settled(section.phi, defaults.phi),
            tau=settled(section.tau, defaults.tau),
            clip_low=settled(section.clip_low, clip_low),
            clip_high=settled(section.clip_high, clip_high),
            filters=FilterSettings(
                sequence_reject=section.sequence_reject,
                off_policy_delta=section.off_policy_delta,
                max_probability_gap=section.max_probability_gap,
            ),
        )

    @property
    def needs_full_responses(self) -> bool:
        """Whether the rule needs log-probabilities of a response's tokens without loss, too."""
        return self.rule == "gspo" or self.filters.needs_full_responses

    @property
    def needs_batch_mask(self) -> bool:
        """Whether the rule needs a mask over the whole batch before the first gradient."""
        return self.rule == "m2po"


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Sampled response tokens of one microbatch.

    Attributes:
        policy_logprobs: log π_θ `[T]`, with gradient.
        proximal_logprobs: log π_prox `[T]`, no gradient.
        behavior_logprobs: log μ `[T]`.
        advantages: A `[T]`.
        is_loss: bool `[T]`, whether the token carries loss here. The others serve means over whole responses.
        sequence_ids: int64 `[T]`, 0 … S−1, the response that a token belongs to.
        token_staleness: int64 `[T]`, versions.
        batch_mask: bool `[T]`, the tokens a rule over the whole batch keeps (`m2po_mask`); None: all.
        mismatch_log_ratio: `[T]`, estimate of log w at equal version (`mismatch`); None: there is no estimate yet.
    """

    policy_logprobs: Tensor
    proximal_logprobs: Tensor
    behavior_logprobs: Tensor
    advantages: Tensor
    is_loss: Tensor
    sequence_ids: Tensor
    token_staleness: Tensor
    batch_mask: Tensor | None = None
    mismatch_log_ratio: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Corrected:
    """The result of a rule for a `TokenBatch`. All `[T]`.

    Attributes:
        surrogate: the objective to maximize, with gradient; 0 where masked and where the token carries no loss.
        weight: the factor on the clipped ratio, no gradient; 0 where masked.
        is_used: finite loss tokens (masked ones included): where the KL penalty and the entropy count.
        is_masked: finite loss tokens that the rule itself masks.
        is_clipped: loss tokens whose ratio the clip (or `cispo`'s cap) bounds.
        is_nonfinite: loss tokens with a non-finite input.
        filtered: finite loss tokens that each filter masks, by the filter's name.
        log_behavior_ratio: log w, no gradient.
        log_policy_ratio: log u, no gradient.
        log_total_ratio: log r, with gradient.
    """

    surrogate: Tensor
    weight: Tensor
    is_used: Tensor
    is_masked: Tensor
    is_clipped: Tensor
    is_nonfinite: Tensor
    filtered: dict[str, Tensor]
    log_behavior_ratio: Tensor
    log_policy_ratio: Tensor
    log_total_ratio: Tensor


@dataclass(frozen=True, slots=True)
class _Ratios:
    """Finite inputs of a rule. `log_u` and `log_r` carry the gradient of log π_θ; `log_w` carries none.

    Ratios are bounded, log-probabilities are as they were given: neither follows from the other.
    """

    tokens: TokenBatch
    policy_logprobs: Tensor
    proximal_logprobs: Tensor
    behavior_logprobs: Tensor
    advantages: Tensor
    log_u: Tensor
    log_w: Tensor
    log_r: Tensor
    is_sampled: Tensor


def _finite_ratios(tokens: TokenBatch) -> _Ratios:
    """The ratios of a microbatch; a token with a non-finite input has zeros everywhere and counts as not sampled."""
    given = (tokens.policy_logprobs, tokens.behavior_logprobs, tokens.proximal_logprobs, tokens.advantages)
    is_finite = given[0].isfinite() & given[1].isfinite() & given[2].isfinite() & given[3].isfinite()
    policy, behavior, proximal, advantages = (torch.where(is_finite, values, 0.0) for values in given)
    return _Ratios(
        tokens=tokens,
        policy_logprobs=policy,
        proximal_logprobs=proximal.detach(),
        behavior_logprobs=behavior,
        advantages=advantages,
        log_u=bounded_log_ratio(policy, proximal.detach()),
        log_w=bounded_log_ratio(proximal, behavior).detach(),
        log_r=bounded_log_ratio(policy, behavior),
        is_sampled=is_finite,
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    surrogate: Tensor
    weight: Tensor
    is_masked: Tensor
    is_clipped: Tensor


def _clipped(log_ratio: Tensor, advantages: Tensor, correction: Correction) -> tuple[Tensor, Tensor]:
    """min(x·A, clip(x, 1−ε_low, 1+ε_high)·A) with x = exp(log_ratio), and where the clipped term is the smaller one."""
    log_low = math.log1p(-correction.clip_low) if correction.clip_low < 1 else -math.inf
    log_high = math.log1p(correction.clip_high)
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * advantages, log_ratio.clamp(log_low, log_high).exp() * advantages)
    is_clipped = ((advantages > 0) & (log_ratio > log_high)) | ((advantages < 0) & (log_ratio < log_low))
    return surrogate, is_clipped


def _capped_weight(log_w: Tensor, correction: Correction) -> tuple[Tensor, Tensor]:
    """The weight min(w, cap), or w up to the cap and 0 above; and where the weight is 0."""
    log_cap = math.log(correction.cap)
    if correction.cap_action == "clamp":
        return log_w.clamp(max=log_cap).exp(), torch.zeros_like(log_w, dtype=torch.bool)
    is_masked = log_w > log_cap
    return log_w.exp().masked_fill(is_masked, 0.0), is_masked


def _weighted_clip(ratios: _Ratios, correction: Correction, weight: Tensor, is_masked: Tensor) -> _Outcome:
    surrogate, is_clipped = _clipped(ratios.log_u, ratios.advantages, correction)
    return _Outcome(weight * surrogate, weight, is_masked, is_clipped & ~is_masked)


def _decoupled(ratios: _Ratios, correction: Correction) -> _Outcome:
    return _weighted_clip(ratios, correction, *_capped_weight(ratios.log_w, correction))


def _icepop(ratios: _Ratios, correction: Correction) -> _Outcome:
    tested = ratios.log_w
    if correction.icepop_on == "mismatch" and ratios.tokens.mismatch_log_ratio is not None:
        tested = ratios.tokens.mismatch_log_ratio
    is_masked = (tested < math.log(correction.lower)) | (tested > math.log(correction.upper))
    return _weighted_clip(ratios, correction, ratios.log_w.exp().masked_fill(is_masked, 0.0), is_masked)


def _log_one_minus_exp(logprobs: Tensor) -> Tensor:
    """log(1 − e^x) for x ≤ 0, accurate at both ends.

    A probability above 1 − 1e-7 counts as 1 − 1e-7: float32 cannot tell them apart.
    """
    bounded = logprobs.clamp(max=-1e-7)
    return torch.where(bounded > -math.log(2), (-bounded.expm1()).log(), (-bounded.exp()).log1p())


def binary_kl(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """KL between Bernoulli(p) and Bernoulli(q), p = e^`logprobs`, q = e^`other_logprobs`. `[T]`, nats."""
    probability = logprobs.exp()
    rest = _log_one_minus_exp(logprobs) - _log_one_minus_exp(other_logprobs)
    return probability * (logprobs - other_logprobs) + (1 - probability) * rest


def _kpop(ratios: _Ratios, correction: Correction) -> _Outcome:
    proximal, behavior = ratios.proximal_logprobs, ratios.behavior_logprobs
    is_masked = (binary_kl(proximal, behavior) > correction.phi) | (binary_kl(behavior, proximal) > correction.phi)
    return _weighted_clip(ratios, correction, ratios.log_w.exp().masked_fill(is_masked, 0.0), is_masked)


def _m2po(ratios: _Ratios, correction: Correction) -> _Outcome:
    keep = ratios.tokens.batch_mask
    if keep is None:
        keep = m2po_mask(ratios.log_r.detach(), ratios.advantages, ratios.tokens.is_loss, correction.tau)
    weight = ratios.log_r.detach().exp() * keep
    surrogate = ratios.log_r.exp() * ratios.advantages * keep
    return _Outcome(surrogate, weight, ~keep, torch.zeros_like(keep))


def m2po_mask(log_total_ratio: Tensor, advantages: Tensor, is_loss: Tensor, tau: float) -> Tensor:
    """The tokens that M2PO keeps (arXiv 2510.01161): bool `[T]` over the **whole batch** of Φ loss tokens.

    Of the loss tokens that the objective pushes further away from μ, (A > 0, r > 1) or (A < 0, r < 1), the rule drops
    those with the largest (log r)² until the mean of the rest is ≤ τ. It keeps all other tokens.

    Args:
        log_total_ratio: log r `[T]`, no gradient; non-finite ones must have been replaced by 0.
        advantages: `[T]`.
        is_loss: bool `[T]`.
        tau: bound on the mean of (log r)².
    """
    watched = is_loss & (advantages * log_total_ratio > 0)
    keep = torch.ones_like(is_loss)
    positions = watched.nonzero().squeeze(1)
    if positions.numel() == 0:
        return keep
    moments, order = log_total_ratio[positions].double().square().sort()
    means = moments.cumsum(0) / torch.arange(1, moments.numel() + 1, device=moments.device)
    # Ascending order makes the running means ascend too, so those within the bound are a prefix.
    num_kept = int((means <= tau).sum())
    keep[positions[order[num_kept:]]] = False
    return keep


def _cispo(ratios: _Ratios, correction: Correction) -> _Outcome:
    log_cap = math.log(correction.cap)
    log_r = ratios.log_r.detach()
    weight = log_r.clamp(max=log_cap).exp()
    surrogate = weight * ratios.advantages * ratios.policy_logprobs
    return _Outcome(surrogate, weight, torch.zeros_like(ratios.is_sampled), log_r > log_cap)


def _gspo(ratios: _Ratios, correction: Correction) -> _Outcome:
    log_u = ratios.log_u.detach()
    log_s = mean_by_sequence(log_u, ratios.tokens.sequence_ids, ratios.is_sampled)
    policy = ratios.policy_logprobs
    surrogate, is_clipped = _clipped(log_s + policy - policy.detach(), ratios.advantages, correction)
    weight, is_masked = _capped_weight(ratios.log_w, correction)
    return _Outcome(weight * surrogate, weight, is_masked, is_clipped & ~is_masked)


def _ppo(ratios: _Ratios, correction: Correction) -> _Outcome:
    surrogate, is_clipped = _clipped(ratios.log_r, ratios.advantages, correction)
    return _Outcome(surrogate, torch.ones_like(surrogate), torch.zeros_like(is_clipped), is_clipped)


def _none(ratios: _Ratios, _correction: Correction) -> _Outcome:
    surrogate = ratios.advantages * ratios.policy_logprobs
    never = torch.zeros_like(ratios.is_sampled)
    return _Outcome(surrogate, torch.ones_like(surrogate), never, never)


_RULES: dict[str, Callable[[_Ratios, Correction], _Outcome]] = {
    "decoupled": _decoupled,
    "tis": _decoupled,
    "icepop": _icepop,
    "kpop": _kpop,
    "m2po": _m2po,
    "cispo": _cispo,
    "gspo": _gspo,
    "ppo": _ppo,
    "none": _none,
}


def correct(tokens: TokenBatch, correction: Correction) -> Corrected:
    """Apply a correction rule and its filters to one microbatch.

    The surrogates, with A the advantage, w = `behavior_ratio`, u = `policy_ratio`, r = `total_ratio`, sg no gradient:

    * `decoupled` (AReaL, arXiv 2505.24298), `tis`: weight(w)·min(u·A, clip(u)·A), weight = min(w, cap), or 0 above
      the cap with `cap_action: mask`. They differ by the cap alone.
    * `icepop` (Ring-1T, arXiv 2510.18855 §2.3.2): weight = w inside [α, β], 0 outside.
    * `kpop`: weight = w where KL(Bern(π_prox) ‖ Bern(μ)) and its reverse are ≤ φ, else 0.
      Differs: its description leaves the direction open; both are tested.
    * `m2po` (arXiv 2510.01161): mask·r·A, see `m2po_mask`.
    * `cispo` (MiniMax-M1, arXiv 2506.13585; ScaleRL, arXiv 2510.13786): sg(min(r, cap))·A·log π_θ.
    * `gspo` (arXiv 2507.18071): weight(w)·min(s·A, clip(s)·A), s = exp(mean_t log u) over the full response.
      Differs: the gradient of s reaches its loss tokens alone, each with its own share (the paper's token variant; the
      same gradient when the whole response carries loss), so that a response cut by Φ trains every token once. The
      weight on w is ours: s compares π_θ with π_prox, and so does not account for staleness.
    * `ppo`: min(r·A, clip(r)·A). `none`: A·log π_θ.
    """
    ratios = _finite_ratios(tokens)
    is_finite = ratios.is_sampled
    is_used = tokens.is_loss & is_finite
    outcome = _RULES[correction.rule](ratios, correction)
    filtered = filtered_tokens(
        correction.filters,
        policy_logprobs=ratios.policy_logprobs.detach(),
        behavior_logprobs=ratios.behavior_logprobs,
        log_behavior_ratio=ratios.log_w,
        advantages=ratios.advantages,
        sequence_ids=tokens.sequence_ids,
        is_sampled=is_finite,
    )
    is_kept = is_used & ~outcome.is_masked
    for is_filtered in filtered.values():
        is_kept = is_kept & ~is_filtered
    return Corrected(
        surrogate=torch.where(is_kept, outcome.surrogate, 0.0),
        weight=torch.where(is_kept, outcome.weight, 0.0).detach(),
        is_used=is_used,
        is_masked=is_used & outcome.is_masked,
        is_clipped=is_kept & outcome.is_clipped,
        is_nonfinite=tokens.is_loss & ~is_finite,
        filtered={name: is_used & is_filtered for name, is_filtered in filtered.items()},
        log_behavior_ratio=ratios.log_w,
        log_policy_ratio=ratios.log_u.detach(),
        log_total_ratio=ratios.log_r,
    )
