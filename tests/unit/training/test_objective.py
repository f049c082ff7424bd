"""Both kinds of objective against numbers worked out by hand in float64, and their gradients."""

import math

import pytest
import torch

from ring_async.algorithms.corrections import Correction, TokenBatch, correct
from ring_async.algorithms.losses import batch_loss
from ring_async.algorithms.proximal import loglinear_proximal
from ring_async.config.learning import CorrectionSection, LossSection
from ring_async.testing.packed_batches import SequenceSpec, pack_sequences
from ring_async.training.batch_tensors import BatchTensors
from ring_async.training.objective import RlObjective, Score, SftObjective

CPU = torch.device("cpu")
SEQUENCE_IDS = torch.tensor([0, 0, 0, 1, 1])
POLICY = [-0.5, -1.0, -2.0, -0.25, -3.0]
ENTROPY = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
BEHAVIOR = [-0.75, -1.0, -1.5, -0.5, -1.0]


def make_tensors() -> tuple[BatchTensors, torch.Tensor]:
    """Two responses in one row, float64: advantages 2 and −1; the last token of the second carries no loss."""
    specs = [
        SequenceSpec([1, 2], [3, 4, 5], behavior_logprobs=BEHAVIOR[:3], advantage=2.0, staleness=[0, 1, 1]),
        SequenceSpec([1], [6, 7], behavior_logprobs=BEHAVIOR[3:], advantage=-1.0, interval=(0, 1), staleness=[2, 2]),
    ]
    batch = pack_sequences(specs, token_capacity=10)
    tensors = BatchTensors(batch, CPU)
    tensors.behavior_logprobs = tensors.behavior_logprobs.double()
    tensors.advantages = tensors.advantages.double()
    return tensors, torch.tensor([2, 3, 4, 6, 7])


def make_rl(*, num_minibatches: int = 1, loss: LossSection | None = None, **correction) -> RlObjective:
    settled = Correction.from_section(CorrectionSection(**correction))
    return RlObjective(settled, loss or LossSection(), num_minibatches)


def leaf(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_rl_by_hand():
    tensors, positions = make_tensors()
    policy = leaf(POLICY)
    entropy = torch.full((5,), 0.5, dtype=torch.float64)
    loss = make_rl(rule="ppo").loss(Score(policy, entropy), tensors, positions, SEQUENCE_IDS, divisor=8.0)
    # r = exp(log π_θ − log μ) = e^¼, 1, e^−½, e^¼: the first is clipped to 1.2 (A > 0), the fourth is not (A < 0).
    expected = -(2 * 1.2 + 2 * 1.0 + 2 * math.exp(-0.5) - math.exp(0.25)) / 8
    assert loss.total.item() == pytest.approx(expected, rel=1e-14)
    loss.total.backward()
    gradient = [0.0, -2 / 8, -2 * math.exp(-0.5) / 8, math.exp(0.25) / 8, 0.0]
    assert policy.grad.tolist() == pytest.approx(gradient, rel=1e-14)
    assert loss.columns["is_clipped"].tolist() == [True, False, False, False]
    assert loss.columns["staleness"].tolist() == [0, 1, 1, 2]
    assert not any(values.requires_grad for values in loss.columns.values())


def test_rl_penalty_and_bonus_by_hand():
    tensors, positions = make_tensors()
    policy, entropy = leaf(POLICY), leaf([0.1, 0.2, 0.3, 0.4, 0.5])
    reference = torch.tensor([-0.5, -1.5, -2.0, -0.25, -3.0], dtype=torch.float64)
    objective = make_rl(rule="none", loss=LossSection(kl_coefficient=0.5, kl_estimator="k3", entropy_coefficient=0.25))
    assert objective.needs_entropy_grad
    loss = objective.loss(Score(policy, entropy, reference), tensors, positions, SEQUENCE_IDS, divisor=4.0)
    surrogate = 2 * (-0.5 - 1.0 - 2.0) - (-0.25)
    kl = math.exp(-0.5) - 1 + 0.5  # k3 of log π_ref − log π_θ = −½, on the second token alone
    expected = -(surrogate - 0.5 * kl + 0.25 * (0.1 + 0.2 + 0.3 + 0.4)) / 4
    assert loss.total.item() == pytest.approx(expected, rel=1e-14)
    loss.total.backward()
    assert entropy.grad.tolist() == pytest.approx([-0.25 / 4] * 4 + [0.0])
    assert loss.columns["kl"].tolist() == pytest.approx([0.0, kl, 0.0, 0.0], rel=1e-12)


def test_sft_by_hand():
    tensors, positions = make_tensors()
    policy, entropy = leaf(POLICY), leaf([0.1, 0.2, 0.3, 0.4, 0.5])
    loss = SftObjective().loss(Score(policy), tensors, positions, SEQUENCE_IDS, divisor=4.0)
    assert loss.total.item() == (0.5 + 1.0 + 2.0 + 0.25) / 4
    loss.total.backward()
    assert policy.grad.tolist() == [-0.25, -0.25, -0.25, -0.25, 0.0]
    assert loss.columns["cross_entropy"].tolist() == [0.5, 1.0, 2.0, 0.25]
    objective = SftObjective(entropy_coefficient=0.5)
    assert objective.needs_entropy_grad
    with_bonus = objective.loss(Score(policy, entropy), tensors, positions, SEQUENCE_IDS, divisor=4.0)
    assert with_bonus.total.item() == pytest.approx((3.75 - 0.5 * 1.0) / 4, rel=1e-14)
    with_bonus.total.backward()
    assert entropy.grad.tolist() == [-0.125, -0.125, -0.125, -0.125, 0.0]


@pytest.mark.parametrize("rule", ["decoupled", "kpop", "cispo", "gspo", "ppo", "none"])
def test_rl_gradient_equals_finite_differences(rule):
    tensors, positions = make_tensors()
    proximal = torch.zeros(10, dtype=torch.float64)
    proximal[positions] = torch.tensor([-0.55, -1.02, -1.9, -0.3, -2.9], dtype=torch.float64)
    tensors.proximal_logprobs = proximal
    objective = make_rl(
        rule=rule,
        num_minibatches=2,
        phi=10.0,
        clip_low=0.9,
        clip_high=0.9,
        loss=LossSection(entropy_coefficient=0.1, kl_coefficient=0.1),
    )
    reference = torch.tensor([-0.6, -0.9, -2.1, -0.3, -2.0], dtype=torch.float64)

    def total(policy: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
        score = Score(policy, entropy, reference)
        return objective.loss(score, tensors, positions, SEQUENCE_IDS, divisor=4.0).total

    def numeric(values: list[float], of_policy: bool) -> list[float]:
        step, found = 1e-6, []
        for index in range(5):
            ends = []
            for sign in (1, -1):
                moved = torch.tensor(values, dtype=torch.float64)
                moved[index] += sign * step
                base = torch.tensor(POLICY, dtype=torch.float64)
                ends.append(total(moved, ENTROPY) if of_policy else total(base, moved))
            found.append(float(ends[0] - ends[1]) / (2 * step))
        return found

    policy, entropy = leaf(POLICY), leaf(ENTROPY.tolist())
    total(policy, entropy).backward()
    assert entropy.grad.tolist() == pytest.approx(numeric(ENTROPY.tolist(), of_policy=False), abs=1e-8)
    if rule not in {"cispo", "gspo"}:  # Their weights stop the gradient: no function has it as its derivative.
        assert policy.grad.tolist() == pytest.approx(numeric(POLICY, of_policy=True), abs=1e-7)
    assert policy.grad.tolist()[4] == 0.0


def test_sft_gradient_equals_finite_differences():
    tensors, positions = make_tensors()
    objective = SftObjective(entropy_coefficient=0.3)

    def total(policy: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
        return objective.loss(Score(policy, entropy), tensors, positions, SEQUENCE_IDS, divisor=7.0).total

    assert torch.autograd.gradcheck(total, (leaf(POLICY), leaf(ENTROPY.tolist())))


@pytest.mark.parametrize("objective", [make_rl(rule="decoupled"), SftObjective(0.2)], ids=["rl", "sft"])
def test_shares_of_microbatches_add_up_under_the_global_divisor(objective):
    tensors, positions = make_tensors()
    policy = leaf(POLICY)
    whole = objective.loss(Score(policy, ENTROPY), tensors, positions, SEQUENCE_IDS, divisor=4.0)
    whole.total.backward()
    parts = leaf(POLICY)
    statistics = objective.statistics()
    total = 0.0
    for chosen in (slice(0, 3), slice(3, 5)):
        score = Score(parts[chosen], ENTROPY[chosen])
        part = objective.loss(score, tensors, positions[chosen], torch.zeros(5).long()[chosen], divisor=4.0)
        part.total.backward()
        statistics.add(part.columns)
        total += part.total.item()
    assert total == pytest.approx(whole.total.item(), rel=1e-14)
    assert torch.equal(policy.grad, parts.grad)
    assert statistics.summary()["loss_tokens"] == 4
    assert statistics.summary()["entropy"] == pytest.approx(0.25)


def test_sft_statistics_without_an_entropy():
    statistics = SftObjective().statistics()
    statistics.add({"cross_entropy": torch.tensor([1.0, 2.0])})
    statistics.add({"cross_entropy": torch.tensor([6.0])})
    assert statistics.summary() == {"loss_tokens": 3, "cross_entropy": 3.0, "entropy": None}


@pytest.mark.parametrize("rule", ["decoupled", "icepop", "kpop", "m2po", "cispo", "gspo", "ppo", "none"])
@pytest.mark.parametrize("proximal", ["recompute", "loglinear"])
def test_rl_is_the_rule_and_the_loss_of_algorithms_bit_for_bit(rule, proximal):
    """Float32, as in training: `RlObjective` gathers and passes on, it computes nothing of its own."""
    generator = torch.Generator().manual_seed(3)
    specs = [SequenceSpec([1, 2], list(range(9)), advantage=a, staleness=s) for a, s in ((0.7, 0), (-1.3, 2))]
    tensors = BatchTensors(pack_sequences(specs, token_capacity=11), CPU)
    positions = torch.cat([torch.arange(2, 11), torch.arange(13, 22)])
    tensors.behavior_logprobs = -torch.rand(22, generator=generator) - 0.5
    policy = -torch.rand(18, generator=generator) - 0.5
    entropy = torch.rand(18, generator=generator)
    sequence_ids = torch.arange(2).repeat_interleave(9)
    settings = LossSection(entropy_coefficient=0.01)
    objective = make_rl(rule=rule, proximal=proximal, num_minibatches=2, loss=settings)
    first_pass = torch.zeros(22)
    first_pass[positions] = policy + 0.01
    if objective.needs_first_pass:
        objective.prepare(tensors, first_pass)
    score = Score(policy, entropy)
    found = objective.loss(score, tensors, positions, sequence_ids, divisor=9.0, progress=0.5)
    behavior, staleness = tensors.behavior_logprobs[positions], tensors.token_staleness[positions]
    expected_proximal = first_pass[positions]
    if proximal == "loglinear":
        # No estimate of the mismatch yet: of fresh tokens, all of log r is mismatch.
        fresh_mismatch = torch.where(staleness == 0, policy - behavior, 0.0)
        expected_proximal = loglinear_proximal(policy, behavior, staleness, 0.5, fresh_mismatch)
    tokens = TokenBatch(
        policy_logprobs=policy,
        proximal_logprobs=expected_proximal,
        behavior_logprobs=behavior,
        advantages=tensors.advantages[positions],
        is_loss=torch.ones(18, dtype=torch.bool),
        sequence_ids=sequence_ids,
        token_staleness=staleness,
        batch_mask=tensors.batch_mask[positions] if rule == "m2po" else None,
    )
    corrected = correct(tokens, objective.correction)
    expected = batch_loss(tokens, corrected, entropy, None, settings=settings, divisor=9.0)
    assert torch.equal(found.total, expected.total)
    assert torch.equal(found.columns["surrogate"], corrected.surrogate)


def test_the_first_pass_is_asked_for_only_where_a_rule_needs_it():
    assert not make_rl(rule="icepop").needs_first_pass
    assert make_rl(rule="icepop", num_minibatches=4).needs_first_pass
    assert not make_rl(rule="icepop", num_minibatches=4, proximal="loglinear").needs_first_pass
    assert make_rl(rule="m2po").needs_first_pass
    assert make_rl(rule="gspo").needs_full_responses


def test_rl_without_an_entropy_is_refused():
    tensors, positions = make_tensors()
    with pytest.raises(ValueError, match="reports the entropy"):
        make_rl().loss(Score(leaf(POLICY)), tensors, positions, SEQUENCE_IDS, divisor=1.0)
    with pytest.raises(ValueError, match="entropy bonus is wanted"):
        SftObjective(0.1).loss(Score(leaf(POLICY)), tensors, positions, SEQUENCE_IDS, divisor=1.0)
