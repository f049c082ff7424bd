"""The correction rules, penalties and advantages once more, from their formulas alone, to fifty digits.

Independent of `ring_async.algorithms`: one token at a time, in mpmath, with derivatives worked out by hand. Formulas
are those of the sources that docs/algorithm.md names for each rule, in its symbols:

    u = π_θ/π_prox,  w = π_prox/μ,  r = π_θ/μ,  clip(x) = min(max(x, 1 − ε_low), 1 + ε_high)

    python -m tests.support.algorithm_reference > tests/unit/algorithms/golden_values.json
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath

mp = mpmath.mp
mp.dps = 50

RULES = ("decoupled", "tis", "icepop", "kpop", "m2po", "cispo", "gspo", "ppo", "none")
KL_ESTIMATORS = ("k1", "k2", "k3", "k3_weighted")
ESTIMATORS = ("grpo", "dr_grpo", "rloo", "batch_std")

_CAPS = {"decoupled": 5, "gspo": 5, "tis": 2, "cispo": 5}
_CLIPS = {"gspo": ("0.0003", "0.0004")}

Real = Any
"""A number of mpmath, which has no types."""


@dataclass(frozen=True)
class Tokens:
    """Log-probabilities and advantages of a batch's tokens, as floats. All lists `[T]`."""

    policy: list[float]
    proximal: list[float]
    behavior: list[float]
    reference: list[float]
    advantages: list[float]
    is_loss: list[bool]
    sequence_ids: list[int]


def random_tokens(seed: int, size: int = 16) -> Tokens:
    """Tokens of three responses; log-probabilities in (−20, −1e-4), so that no log ratio exceeds 20 either way.

    Spreads of the ratios are drawn for each batch, from nearly on-policy to as far as goes. Every fourth batch has
    π_prox = π_θ, as with one minibatch a batch.
    """
    draw = random.Random(seed)
    spread = draw.choice((1e-4, 0.1, 1.0, 5.0, 40.0))

    def near(value: float) -> float:
        return min(-1e-4, max(-20.0, value + draw.gauss(0.0, spread)))

    behavior = [-draw.choice((0.05, 1.0, 8.0)) * draw.random() - 1e-4 for _ in range(size)]
    policy = [near(value) for value in behavior]
    proximal = list(policy) if seed % 4 == 0 else [near(value) for value in policy]
    of_sequence = [draw.choice((-1.5, -0.3, 0.0, 0.7, 2.0)) for _ in range(3)]
    sequence_ids = sorted(draw.randrange(3) for _ in range(size))
    return Tokens(
        policy=policy,
        proximal=proximal,
        behavior=behavior,
        reference=[near(value) for value in policy],
        advantages=[of_sequence[sequence] for sequence in sequence_ids],
        is_loss=[draw.random() < 0.8 for _ in range(size)],
        sequence_ids=sequence_ids,
    )


def surrogates(rule: str, tokens: Tokens) -> tuple[list[Real], list[Real]]:
    """The surrogate of every token, 0 without loss, and its derivative by that token's log π_θ. `[T]` each."""
    token_rule = {"m2po": _m2po, "gspo": _gspo, "cispo": _cispo, "ppo": _ppo, "none": _none}.get(rule, _weighted(rule))
    value_and_slope = token_rule(tokens)
    found = [value_and_slope(index) if counts else (mp.zero, mp.zero) for index, counts in enumerate(tokens.is_loss)]
    return [value for value, _ in found], [slope for _, slope in found]


def kl_penalties(estimator: str, tokens: Tokens) -> tuple[list[Real], list[Real]]:
    """The estimate of KL(π_θ ‖ π_ref) at every token, and its derivative by log π_θ. `[T]` each."""

    def one(index: int) -> tuple[Real, Real]:
        log_ratio = mp.mpf(tokens.reference[index]) - tokens.policy[index]  # l; dl/dlog π_θ = −1
        if estimator == "k1":
            return -log_ratio, mp.one
        if estimator == "k2":
            return log_ratio**2 / 2, -log_ratio
        k3, slope = mp.expm1(log_ratio) - log_ratio, 1 - mp.exp(log_ratio)
        if estimator == "k3":
            return k3, slope
        total = mp.exp(mp.mpf(tokens.policy[index]) - tokens.behavior[index])
        # Above the bound r is the constant 5; below it r's own derivative is r.
        return (total * k3, total * (slope + k3)) if total < 5 else (5 * k3, 5 * slope)

    found = [one(index) for index in range(len(tokens.policy))]
    return [value for value, _ in found], [slope for _, slope in found]


def advantages(estimator: str, rewards: Sequence[float], earlier_variances: Sequence[float] = ()) -> list[Real]:
    """Advantages of one group; `earlier_variances` are those of the groups before it, for `batch_std`. `[K]`."""
    size, mean = len(rewards), mp.fsum(rewards) / len(rewards)
    centered = [mp.mpf(reward) - mean for reward in rewards]
    variance = mp.fsum([each**2 for each in centered]) / size  # ddof 0
    if estimator == "dr_grpo":
        return centered
    if estimator == "rloo":  # each against the mean of the others
        return [reward - (mp.fsum(rewards) - reward) / (size - 1) for reward in rewards]
    if estimator == "batch_std":
        variance = mp.fsum([*earlier_variances, variance]) / (len(earlier_variances) + 1)
    return [each / (mp.sqrt(variance) + mp.mpf(STD_EPSILON)) for each in centered]


STD_EPSILON = 1e-6

_TokenRule = Callable[[int], tuple[Real, Real]]


def _log(values: list[float], others: list[float], index: int) -> Real:
    return mp.mpf(values[index]) - mp.mpf(others[index])


def _clipped(rule: str, log_ratio: Real, advantage: float) -> tuple[Real, Real]:
    """min(x·A, clip(x)·A) and its derivative by log x."""
    low, high = (mp.mpf(bound) for bound in _CLIPS.get(rule, ("0.2", "0.2")))
    ratio, scale = mp.exp(log_ratio), mp.mpf(advantage)
    if scale > 0 and ratio > 1 + high:
        return (1 + high) * scale, mp.zero
    if scale < 0 and ratio < 1 - low:
        return (1 - low) * scale, mp.zero
    return ratio * scale, ratio * scale


def _binary_kl(log_p: Real, log_q: Real) -> Real:
    p, q = mp.exp(log_p), mp.exp(log_q)
    return p * mp.log(p / q) + (1 - p) * mp.log((1 - p) / (1 - q))


def _weight(rule: str, tokens: Tokens, index: int) -> Real:
    weight = mp.exp(_log(tokens.proximal, tokens.behavior, index))
    if rule == "icepop":
        return weight if mp.mpf("0.5") <= weight <= 5 else mp.zero
    if rule == "kpop":
        proximal, behavior = mp.mpf(tokens.proximal[index]), mp.mpf(tokens.behavior[index])
        distance = max(_binary_kl(proximal, behavior), _binary_kl(behavior, proximal))
        return weight if distance <= mp.mpf("0.1") else mp.zero
    return min(weight, mp.mpf(_CAPS[rule]))


def _weighted(rule: str) -> Callable[[Tokens], _TokenRule]:
    def of(tokens: Tokens) -> _TokenRule:
        def one(index: int) -> tuple[Real, Real]:
            value, slope = _clipped(rule, _log(tokens.policy, tokens.proximal, index), tokens.advantages[index])
            weight = _weight(rule, tokens, index)
            return weight * value, weight * slope

        return one

    return of


def _gspo(tokens: Tokens) -> _TokenRule:
    def one(index: int) -> tuple[Real, Real]:
        own = [other for other, of in enumerate(tokens.sequence_ids) if of == tokens.sequence_ids[index]]
        log_s = mp.fsum([_log(tokens.policy, tokens.proximal, other) for other in own]) / len(own)
        value, slope = _clipped("gspo", log_s, tokens.advantages[index])
        weight = _weight("gspo", tokens, index)
        return weight * value, weight * slope

    return one


def _m2po(tokens: Tokens) -> _TokenRule:
    """Of the tokens that move away from μ, the largest (log r)² are dropped one by one until the mean is within τ."""
    log_r = [_log(tokens.policy, tokens.behavior, index) for index in range(len(tokens.policy))]
    watched = [i for i, counts in enumerate(tokens.is_loss) if counts and log_r[i] * tokens.advantages[i] > 0]
    watched.sort(key=lambda index: log_r[index] ** 2)
    dropped = set()
    while watched and mp.fsum([log_r[index] ** 2 for index in watched]) / len(watched) > mp.mpf("0.04"):
        dropped.add(watched.pop())

    def one(index: int) -> tuple[Real, Real]:
        value = mp.zero if index in dropped else mp.exp(log_r[index]) * tokens.advantages[index]
        return value, value

    return one


def _cispo(tokens: Tokens) -> _TokenRule:
    def one(index: int) -> tuple[Real, Real]:
        weight = min(mp.exp(_log(tokens.policy, tokens.behavior, index)), mp.mpf(_CAPS["cispo"]))
        slope = weight * tokens.advantages[index]
        return slope * tokens.policy[index], slope

    return one


def _ppo(tokens: Tokens) -> _TokenRule:
    return lambda index: _clipped("ppo", _log(tokens.policy, tokens.behavior, index), tokens.advantages[index])


def _none(tokens: Tokens) -> _TokenRule:
    return lambda index: (mp.mpf(tokens.advantages[index]) * tokens.policy[index], mp.mpf(tokens.advantages[index]))


def golden_values() -> dict[str, Any]:
    """What is committed: one batch, rewards of one group, and what the formulas make of them."""
    # Seed 9: every rule but `none` masks, caps or clips some of its tokens, and leaves others alone.
    tokens, rewards, earlier = random_tokens(9), [1.0, 0.0, 0.25, 0.0], [0.25, 0.1]

    def pair(values: tuple[list[Real], list[Real]]) -> dict[str, list[float]]:
        return {"values": [float(one) for one in values[0]], "derivatives": [float(one) for one in values[1]]}

    return {
        "tokens": vars(tokens),
        "surrogates": {rule: pair(surrogates(rule, tokens)) for rule in RULES},
        "penalties": {estimator: pair(kl_penalties(estimator, tokens)) for estimator in KL_ESTIMATORS},
        "rewards": rewards,
        "earlier_variances": earlier,
        "advantages": {name: [float(one) for one in advantages(name, rewards, earlier)] for name in ESTIMATORS},
    }


if __name__ == "__main__":
    print(json.dumps(golden_values(), indent=1))
