"""The transformers train engine against a dense float64 reference written here, and what must not change its result."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ring_async.algorithms.logprobs import score_tokens
from ring_async.errors import ConfigError, DivergedError, StorageError
from ring_async.records.trained_tokens import Fate
from ring_async.testing.builders import make_config
from ring_async.testing.packed_batches import SequenceSpec, pack_sequences, write_tiny_llama
from ring_async.training.hf.engine import HfTrainEngine

VOCABULARY = 13
RULES = ["decoupled", "tis", "icepop", "kpop", "m2po", "cispo", "gspo", "ppo", "none"]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model"), vocabulary=VOCABULARY)


def make_engine(model_path: Path, **overrides) -> HfTrainEngine:
    # With a large ε Adam's update is nearly linear in the gradient, so that weights can be compared closely.
    defaults = {
        "learner__learning_rate": 0.05,
        "learner__adam_eps": 0.1,
        "learner__max_grad_norm": 1e6,
        "learner__token_capacity": 48,
        "learner__rows_per_microbatch": 1,
        "budget__token_budget": 64,
    }
    return HfTrainEngine(make_config(**(defaults | overrides)), model_path)


def make_specs(seed: int = 0, num_groups: int = 4, group_size: int = 3, budget: int = 64) -> list[SequenceSpec]:
    """Groups with a shared prompt; the last response is cut by its interval so that `budget` tokens carry loss."""
    random = np.random.default_rng(seed)
    specs: list[SequenceSpec] = []
    left = budget
    for group in range(num_groups):
        prompt = random.integers(0, VOCABULARY, random.integers(2, 9)).tolist()
        for _ in range(group_size):
            length = int(random.integers(3, 14))
            loss = min(length, left)
            left -= loss
            if loss:
                specs.append(
                    SequenceSpec(
                        prompt_ids=prompt,
                        response_ids=random.integers(0, VOCABULARY, length).tolist(),
                        behavior_logprobs=random.uniform(-4.0, -1.0, length).tolist(),
                        advantage=float(random.normal()),
                        reward=float(random.integers(0, 2)),
                        interval=(0, loss),
                        staleness=random.integers(0, 3, length).tolist(),
                        temperature=(1.0, 0.7)[group % 2],
                        source=("sums", "letters")[group % 2],
                    )
                )
    assert left == 0, "not enough tokens for the budget"
    return specs


def dense_logprobs(model, spec: SequenceSpec, dtype=torch.float64) -> torch.Tensor:
    """Log-probabilities of one response in a forward of its own. `[N]`."""
    ids = torch.tensor([[*spec.prompt_ids, *spec.response_ids]])
    logits = model(input_ids=ids).logits[0].to(dtype) / spec.temperature
    everything = logits[:-1].log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)
    return everything[len(spec.prompt_ids) - 1 :]


def dense_surrogate(rule: str, policy, proximal, behavior, advantage):
    """The formulas of the documentation, plainly."""
    w, u, r = (proximal - behavior).exp(), (policy - proximal).exp(), (policy - behavior).exp()
    clipped = torch.minimum(u * advantage, u.clamp(0.8, 1.2) * advantage)
    match rule:
        case "decoupled":
            return w.clamp(max=5.0) * clipped
        case "tis":
            return w.clamp(max=2.0) * clipped
        case "icepop":
            return torch.where((w >= 0.5) & (w <= 5.0), w, 0.0) * clipped
        case "kpop":
            p, q = proximal.exp(), behavior.exp()
            near = torch.maximum(
                p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log(),
                q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log(),
            )
            return torch.where(near <= 0.1, w, 0.0) * clipped
        case "cispo":
            return r.detach().clamp(max=5.0) * advantage * policy
        case "gspo":
            log_s = (policy - proximal).detach().mean() + policy - policy.detach()
            s = log_s.exp()
            return w.clamp(max=5.0) * torch.minimum(s * advantage, s.clamp(1 - 3e-4, 1 + 4e-4) * advantage)
        case "ppo":
            return torch.minimum(r * advantage, r.clamp(0.8, 1.2) * advantage)
        case "none":
            return advantage * policy
    raise AssertionError(rule)


def dense_m2po_keep(proximals, specs, tau=0.04) -> list[torch.Tensor]:
    """Drop the largest until the mean is within the bound, one at a time."""
    watched: list[tuple[float, int, int]] = []
    for index, (proximal, spec) in enumerate(zip(proximals, specs, strict=True)):
        log_r = proximal - torch.tensor(spec.behavior_logprobs, dtype=torch.float64)
        watched += [
            (float(log_r[token]) ** 2, index, token)
            for token in range(spec.interval[1])
            if float(log_r[token]) * spec.advantage > 0
        ]
    keep = [torch.ones(len(spec.response_ids), dtype=torch.bool) for spec in specs]
    watched.sort(reverse=True)
    while watched and sum(moment for moment, _, _ in watched) / len(watched) > tau:
        _, index, token = watched.pop(0)
        keep[index][token] = False
    return keep


def in_row_order(specs, batch) -> list[SequenceSpec]:
    """Minibatches are runs of loss tokens in row order, and first fit may put a later sequence into an earlier row."""
    places = [(sequence.row, sequence.offset) for sequence in batch.plan.sequences]
    return [spec for _, spec in sorted(zip(places, specs, strict=True), key=lambda pair: pair[0])]


def dense_training(model_path, specs, rule, *, num_minibatches, kl=0.0, bonus=0.0):
    """The whole batch in float64, one response at a time, without packing: the reference."""
    load = AutoModelForCausalLM.from_pretrained
    model = load(model_path, dtype=torch.float64, attn_implementation="eager")
    start = load(model_path, dtype=torch.float64, attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, betas=(0.9, 0.95), eps=0.1, weight_decay=0.0)
    with torch.no_grad():
        proximals = [dense_logprobs(model, spec) for spec in specs]
    keep = dense_m2po_keep(proximals, specs)
    budget = sum(spec.interval[1] for spec in specs)
    grad_norms = []
    for minibatch in range(num_minibatches):
        optimizer.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        seen = 0
        for spec, proximal, kept in zip(specs, proximals, keep, strict=True):
            policy = dense_logprobs(model, spec)
            behavior = torch.tensor(spec.behavior_logprobs, dtype=torch.float32).double()
            if rule == "m2po":
                terms = (policy - behavior).exp() * spec.advantage * kept
            else:
                terms = dense_surrogate(rule, policy, proximal, behavior, spec.advantage)
            if kl:
                with torch.no_grad():
                    reference = dense_logprobs(start, spec)
                log_ratio = reference - policy
                penalty = (policy - behavior).exp().clamp(max=5.0) * (log_ratio.exp() - 1 - log_ratio)
                terms = terms - kl * penalty
            if bonus:
                ids = torch.tensor([[*spec.prompt_ids, *spec.response_ids]])
                logits = model(input_ids=ids).logits[0, len(spec.prompt_ids) - 1 : -1].double() / spec.temperature
                terms = terms + bonus * torch.distributions.Categorical(logits=logits).entropy()
            tokens = seen + torch.arange(spec.interval[1])
            chosen = tokens // (budget // num_minibatches) == minibatch
            loss = loss - terms[: spec.interval[1]][chosen].sum() / (budget // num_minibatches)
            seen += spec.interval[1]
        loss.backward()
        grad_norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1e6)))
        optimizer.step()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return weights, sum(grad_norms) / len(grad_norms)


def weights_of(engine: HfTrainEngine) -> dict[str, torch.Tensor]:
    return dict(engine.snapshot().tensors())


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].detach().double() - other[name].detach().double()).abs().max()) for name in one)


@pytest.mark.parametrize("num_minibatches", [1, 4])
@pytest.mark.parametrize("rule", RULES)
def test_training_equals_the_dense_float64_reference(model_path, rule, num_minibatches):
    specs = make_specs()
    engine = make_engine(model_path, correction__rule=rule, budget__minibatches_per_batch=num_minibatches)
    before = weights_of(engine)
    batch = pack_sequences(specs, token_capacity=48)
    report = engine.train_batch(batch)
    expected, grad_norm = dense_training(model_path, in_row_order(specs, batch), rule, num_minibatches=num_minibatches)
    assert report.num_optimizer_steps == num_minibatches
    assert report.loss_tokens == 64
    assert report.metrics["grad_norm"] == pytest.approx(grad_norm, rel=1e-4)
    assert largest_difference(weights_of(engine), before) > 1e-3
    assert largest_difference(weights_of(engine), expected) < 2e-5


def test_kl_and_entropy_equal_the_dense_float64_reference(model_path):
    specs = make_specs(seed=3)
    settings = {"loss__kl_coefficient": 0.2, "loss__entropy_coefficient": 0.1}
    engine = make_engine(model_path, correction__rule="tis", budget__minibatches_per_batch=4, **settings)
    batch = pack_sequences(specs, token_capacity=48)
    report = engine.train_batch(batch)
    expected, _ = dense_training(model_path, in_row_order(specs, batch), "tis", num_minibatches=4, kl=0.2, bonus=0.1)
    assert report.metrics["kl"] > 0
    assert largest_difference(weights_of(engine), expected) < 2e-5


def test_packed_log_probabilities_equal_unpacked_ones(model_path):
    specs = make_specs(seed=1)
    batch = pack_sequences(specs, token_capacity=48)
    found = make_engine(model_path).logprobs(batch)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32, attn_implementation="sdpa")
    for spec, sequence in zip(specs, batch.plan.sequences, strict=True):
        with torch.no_grad():
            expected = dense_logprobs(model, spec, torch.float32).numpy()
        begin = sequence.offset + sequence.num_prompt_tokens
        row = found[sequence.row, begin : begin + sequence.num_response_tokens]
        assert np.abs(row - expected).max() < 1e-5
        assert found[sequence.row, sequence.offset] == 0
        assert (found[sequence.row, sequence.offset + 1 : begin] < 0).all()
    assert (found[batch.sequence_ids == 0] == 0).all()


@pytest.mark.parametrize("num_key_value_heads", [1, 4])
def test_block_attention_equals_a_dense_block_diagonal_mask(tmp_path, num_key_value_heads):
    path = write_tiny_llama(tmp_path, vocabulary=VOCABULARY, num_key_value_heads=num_key_value_heads)
    batch = pack_sequences(make_specs(seed=2), token_capacity=48)
    found = make_engine(path).logprobs(batch)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    ids, sequences = torch.from_numpy(batch.input_ids).long(), torch.from_numpy(batch.sequence_ids)
    mask = (sequences[:, :, None] == sequences[:, None, :]) & torch.ones(48, 48, dtype=torch.bool).tril()
    with torch.no_grad():
        logits = model(
            input_ids=ids, position_ids=torch.from_numpy(batch.position_ids).long(), attention_mask=mask[:, None]
        ).logits
    logits = logits[:, :-1] / torch.from_numpy(batch.temperatures)[:, 1:, None]
    expected = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2).numpy()
    scored = batch.loss_mask[:, 1:] != 0
    assert np.abs(found[:, 1:] - expected)[scored].max() < 1e-5


@pytest.mark.parametrize(
    "layout",
    [
        {"token_capacity": 24},
        {"token_capacity": 96},
        {"token_capacity": 48, "order": "reversed"},
        {"token_capacity": 48, "num_ranks": 4},
    ],
)
@pytest.mark.parametrize("rule", ["icepop", "gspo", "m2po"])
def test_rows_padding_order_and_ranks_do_not_change_the_step(model_path, rule, layout):
    specs = make_specs(seed=4)
    order = list(reversed(range(len(specs)))) if layout.get("order") else None
    engines = [make_engine(model_path, correction__rule=rule) for _ in range(2)]
    reports = [
        engines[0].train_batch(pack_sequences(specs, token_capacity=48)),
        engines[1].train_batch(pack_sequences(specs, **(layout | {"order": order}))),
    ]
    assert largest_difference(*(weights_of(engine) for engine in engines)) < 1e-6
    one, other = (report.metrics for report in reports)
    assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
    assert one["effective_sample_size"] == pytest.approx(other["effective_sample_size"], rel=1e-5)


@pytest.mark.parametrize("rows_per_microbatch", [1, 2, 8])
def test_microbatches_do_not_change_the_step(model_path, rows_per_microbatch):
    batch = pack_sequences(make_specs(seed=5), token_capacity=48)
    one, other = make_engine(model_path), make_engine(model_path, learner__rows_per_microbatch=rows_per_microbatch)
    one.train_batch(batch)
    other.train_batch(batch)
    assert largest_difference(weights_of(one), weights_of(other)) < 1e-6


def test_ratios_are_exactly_one_on_policy(model_path):
    """Behaviour log-probabilities from this engine, at these weights: nothing to correct, nothing masked."""
    specs = make_specs(seed=6)
    engine = make_engine(model_path)
    batch = pack_sequences(specs, token_capacity=48)
    batch.behavior_logprobs[:] = engine.logprobs(batch)
    metrics = engine.train_batch(batch).metrics
    assert metrics["effective_sample_size"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["mismatch_ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["behavior_ratio_masked"] == 0
    assert metrics["behavior_kl"] == pytest.approx(0.0, abs=1e-6)


def test_metrics_are_what_a_metrics_line_needs(model_path):
    metrics = make_engine(model_path).train_batch(pack_sequences(make_specs(), token_capacity=48)).metrics
    assert json.loads(json.dumps(metrics)) == metrics
    needed = {
        "loss_tokens", "effective_sample_size", "reward_mean", "reward_by_source", "entropy", "grad_norm", "kl",
        "staleness_mean", "staleness_max", "behavior_ratio_masked", "behavior_ratio_masked_by_staleness",
        "behavior_ratio_masked_by_sign", "behavior_ratio_quantiles", "policy_ratio_clipped", "mismatch_ratio",
        "padding_fraction", "learning_rate",
    }  # fmt: skip
    assert needed <= metrics.keys()
    assert metrics["loss_tokens"] == 64
    assert set(metrics["reward_by_source"]) == {"sums", "letters"}
    assert set(metrics["behavior_ratio_quantiles"]) == {"0", "1", "2"}
    assert 0 < metrics["entropy"] < np.log(VOCABULARY)


def test_loglinear_needs_no_pass_and_goes_from_policy_to_behavior(model_path):
    settings = {"correction__proximal": "loglinear", "correction__rule": "decoupled"}
    batch = pack_sequences(make_specs(seed=7), token_capacity=48)
    one = make_engine(model_path, **settings)
    other = make_engine(model_path, correction__rule="decoupled")
    one.train_batch(batch)
    other.train_batch(batch)
    # With M = 1 both are the detached forward itself.
    assert largest_difference(weights_of(one), weights_of(other)) == 0
    several = make_engine(model_path, budget__minibatches_per_batch=4, **settings)
    assert several.train_batch(batch).metrics["policy_ratio_clipped"] >= 0


@pytest.mark.parametrize("num_minibatches", [1, 4])
def test_loglinear_reports_the_mismatch_of_fresh_tokens(model_path, num_minibatches):
    """An engine that says e times less than the learner of every token, all of them fresh, and nothing is learned."""
    specs = [dataclasses.replace(spec, staleness=[0] * len(spec.response_ids)) for spec in make_specs(seed=6)]
    engine = make_engine(
        model_path, correction__proximal="loglinear", correction__upper=2.0,
        learner__learning_rate=0.0, budget__minibatches_per_batch=num_minibatches,
    )  # fmt: skip
    batch = pack_sequences(specs, token_capacity=48)
    batch.behavior_logprobs[:] = engine.logprobs(batch) - 1.0
    metrics = engine.train_batch(batch).metrics
    assert metrics["mismatch_ratio"] == pytest.approx(np.e, rel=1e-4)
    assert metrics["behavior_ratio_masked"] == 1.0


@pytest.mark.parametrize("num_minibatches", [1, 4])
def test_divergence_raises_and_leaves_the_weights(model_path, num_minibatches):
    engine = make_engine(
        model_path,
        budget__minibatches_per_batch=num_minibatches,
        correction__rule="none",
        learner__max_nonfinite_steps=0,
    )
    before = weights_of(engine)
    batch = pack_sequences(make_specs(seed=8), token_capacity=48)
    last_row = np.flatnonzero(batch.loss_mask.any(axis=1))[-1]
    batch.advantages[last_row] = 3e38
    with pytest.raises(DivergedError, match="plan 1, optimizer step"):
        engine.train_batch(batch)
    assert largest_difference(weights_of(engine), before) == 0


def test_a_step_that_is_not_finite_is_skipped_and_counted_and_too_many_in_a_row_end_the_run(model_path):
    engine = make_engine(model_path, correction__rule="none", learner__max_nonfinite_steps=2)
    before = weights_of(engine)
    good, bad = (pack_sequences(make_specs(seed=8), token_capacity=48) for _ in range(2))
    bad.advantages[:] = 3e38
    for _ in range(2):
        report = engine.train_batch(bad)
        assert (report.metrics["nonfinite_steps"], report.num_optimizer_steps) == (1, 0)
    assert largest_difference(weights_of(engine), before) == 0
    assert engine.train_batch(good).num_optimizer_steps == 1  # counted from 0 again
    after = weights_of(engine)
    engine.train_batch(bad)
    engine.train_batch(bad)
    with pytest.raises(DivergedError, match="plan 1, optimizer step 2"):
        engine.train_batch(bad)
    assert largest_difference(weights_of(engine), after) == 0


def test_non_finite_behavior_is_masked_and_counted(model_path):
    batch = pack_sequences(make_specs(seed=9), token_capacity=48)
    row, column = np.argwhere(batch.loss_mask)[5]
    batch.behavior_logprobs[row, column] = -np.inf
    engine = make_engine(model_path)
    assert engine.train_batch(batch).metrics["nonfinite_tokens"] == 1
    assert all(bool(tensor.isfinite().all()) for tensor in weights_of(engine).values())


@pytest.mark.parametrize("settings", [{}, {"correction__icepop_on": "mismatch", "budget__minibatches_per_batch": 4}])
def test_a_restored_engine_goes_on_bit_for_bit(model_path, tmp_path, settings):
    engine = make_engine(model_path, **settings)
    batches = [pack_sequences(make_specs(seed=seed), token_capacity=48) for seed in range(4)]
    for batch in batches[:2]:
        engine.train_batch(batch)
    engine.capture().write(tmp_path)
    restored = make_engine(model_path, **settings)
    restored.restore(tmp_path)
    assert largest_difference(weights_of(engine), weights_of(restored)) == 0
    for batch in batches[2:]:
        one, other = engine.train_batch(batch).metrics, restored.train_batch(batch).metrics
        assert one == other
    assert largest_difference(weights_of(engine), weights_of(restored)) == 0


def test_a_checkpoint_is_a_hugging_face_directory(model_path, tmp_path):
    engine = make_engine(model_path)
    engine.train_batch(pack_sequences(make_specs(), token_capacity=48))
    engine.capture().write(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert largest_difference(weights_of(engine), dict(model.named_parameters())) == 0


def test_a_folder_of_another_model_is_refused_and_changes_nothing(model_path, tmp_path):
    other = write_tiny_llama(tmp_path / "model", vocabulary=VOCABULARY + 1)
    make_engine(other).capture().write(tmp_path)
    engine = make_engine(model_path)
    before = weights_of(engine)
    with pytest.raises(StorageError, match="another model"):
        engine.restore(tmp_path)
    with pytest.raises(StorageError, match="cannot restore"):
        engine.restore(tmp_path / "nowhere")
    assert largest_difference(weights_of(engine), before) == 0


def test_knobs_are_tuned_from_the_next_batch_on(model_path):
    batch = pack_sequences(make_specs(seed=10), token_capacity=48)
    engine = make_engine(model_path)
    before = weights_of(engine)
    engine.tune({"learner.learning_rate": 0.0})
    assert engine.train_batch(batch).metrics["learning_rate"] == 0.0
    assert largest_difference(weights_of(engine), before) == 0
    engine.tune({"correction.lower": 0.9999, "correction.upper": 1.0001, "loss.kl_coefficient": 0.1})
    metrics = engine.train_batch(batch).metrics
    assert metrics["behavior_ratio_masked"] > 0.9
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    for knobs, message in (
        ({"learner.num_threads": 2}, "cannot change while the run goes on"),
        ({"correction.nonsense": 2}, "cannot change while the run goes on"),
        ({"correction.cap": -1, "learner.learning_rate": 1.0}, r"correction\.cap: -1 must be above 0"),
        ({"learner.learning_rate": float("nan")}, "finite number"),
    ):
        with pytest.raises(ConfigError, match=message):
            engine.tune(knobs)
    assert engine.train_batch(batch).metrics["learning_rate"] == 0.0


def test_bfloat16_runs_products_in_half_and_weights_in_full_precision(model_path):
    batch = pack_sequences(make_specs(seed=11), token_capacity=48)
    full, half = make_engine(model_path), make_engine(model_path, model__dtype="bfloat16")
    difference = np.abs(full.logprobs(batch) - half.logprobs(batch)).max()
    assert 1e-4 < difference < 0.5
    half.train_batch(batch)
    assert {tensor.dtype for _, tensor in half.snapshot().tensors()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_snapshot_keeps_the_weights_of_its_version_and_hands_each_out_once(model_path, dtype):
    engine = make_engine(model_path, model__dtype=dtype)
    reference = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    snapshot, unread = engine.snapshot(), engine.snapshot()
    engine.train_batch(pack_sequences(make_specs(), token_capacity=48))
    expected = {name: values.detach().to(getattr(torch, dtype)) for name, values in reference.named_parameters()}
    assert [(s.name, s.dtype, s.shape) for s in snapshot.shapes] == [
        (name, dtype, tuple(values.shape)) for name, values in expected.items()
    ]
    found = dict(snapshot.tensors())
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert list(snapshot.tensors()) == []
    unread.close()
    assert list(unread.tensors()) == []
    assert largest_difference(weights_of(engine), found) > 1e-3


def test_settings_of_other_engines_are_refused(model_path, tmp_path):
    with pytest.raises(ConfigError, match=r"learner\.parallel\.tensor is 2"):
        make_engine(model_path, learner__parallel__tensor=2)
    with pytest.raises(ConfigError, match=r"takes no learner\.engine_options but device, .*not nonsense"):
        make_engine(model_path, learner__engine_options={"nonsense": 1})
    with pytest.raises(ConfigError, match=r"model\.path: cannot load"):
        make_engine(tmp_path)


def make_head_inputs():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    return hidden, weight, torch.arange(7), torch.linspace(0.5, 2.0, 7, dtype=torch.float64)


def test_a_large_head_is_cut_into_chunks_and_nothing_changes():
    results = []
    for max_elements in (1 << 20, 22):
        hidden, weight, targets, temperatures = make_head_inputs()
        hidden.requires_grad_()
        weight.requires_grad_()
        logprobs, entropy = score_tokens(
            hidden, weight, None, targets, temperatures, entropy_grad=True, max_elements=max_elements
        )
        (logprobs.sum() + 0.3 * entropy.sum()).backward()
        results.append((logprobs.detach(), entropy.detach(), hidden.grad, weight.grad))
    for whole, cut in zip(*results, strict=True):
        assert torch.allclose(whole, cut, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("num_minibatches", [1, 4])
def test_each_trained_token_is_reported_with_its_own_ratio(model_path, num_minibatches):
    specs = make_specs()
    engine = make_engine(model_path, budget__minibatches_per_batch=num_minibatches)
    batch = pack_sequences(specs, token_capacity=48)
    flat = engine.logprobs(batch).ravel()
    report = engine.train_batch(batch)
    assert [one.trajectory_id for one in report.tokens] == [one.trajectory_id for one in batch.plan.sequences]
    for planned, one in zip(batch.plan.sequences, report.tokens, strict=True):
        assert one.start == planned.interval.start
        begin = planned.row * 48 + planned.offset + planned.num_prompt_tokens + planned.interval.start
        place = slice(begin, begin + planned.interval.end - planned.interval.start)
        behavior = batch.behavior_logprobs.ravel()[place]
        # before the batch's first gradient: π_prox is what M > 1 recomputed, and the policy itself with M = 1
        np.testing.assert_allclose(np.frombuffer(one.ratios, "<f4"), np.exp(flat[place] - behavior), rtol=1e-3)
        assert set(one.fates) <= {Fate.TRAINED, Fate.MASKED, Fate.CLIPPED}
    masked = sum(fate == Fate.MASKED for one in report.tokens for fate in one.fates)
    assert masked == round(report.metrics["behavior_ratio_masked"] * report.loss_tokens)
