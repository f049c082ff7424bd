"""Every metric of the fleet, declared once: name, unit, labels, and what it means.

Owns: the declarations, in one registry for each process. Does not own: serving them (`exporter`) or where Prometheus
finds them (`discovery`).
Invariants: a metric called `ring_<actor>_<noun>_<unit>` is the attribute `<actor>_<noun>` here; counters end in
`_total` on the wire. No label has unbounded values: prompt, group and trajectory ids belong in the trace and the run's
files, never here; `epoch` grows with the swaps that people make. Which actor a series belongs to is said by the scrape
target (`discovery`), since a process holds one actor; where several share a process (tests), their counters add up.

    metrics.rollout_generated_tokens.inc(31)
    with metrics.waiting(metrics.learner_waiting_seconds, "batch"):
        ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from ring_async.clock import monotonic_s

REGISTRY = CollectorRegistry()
"""This process's metrics. Not prometheus-client's default one, to which any library may add."""

disable_created_metrics()  # the time each counter began, as a series of its own: nothing reads them
ProcessCollector(registry=REGISTRY)  # CPU seconds, resident bytes, open files: what leaks show up in

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_VERSIONS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Declaration(NamedTuple):
    """One metric as people need to know it."""

    name: str
    """The metric's name in queries, `_total` included."""
    kind: str
    labels: tuple[str, ...]
    meaning: str


_declarations: list[Declaration] = []


def declarations() -> tuple[Declaration, ...]:
    """All metrics in the order of this file: what `docs/monitoring.md` lists, and a test holds dashboards to."""
    return tuple(_declarations)


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    _declarations.append(Declaration(f"{name}_total", "counter", labels, meaning))
    return Counter(name, meaning, labels, registry=REGISTRY)


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    _declarations.append(Declaration(name, "gauge", labels, meaning))
    return Gauge(name, meaning, labels, registry=REGISTRY)


def _histogram(name: str, meaning: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
    _declarations.append(Declaration(name, "histogram", labels, meaning))
    return Histogram(name, meaning, labels, buckets=buckets, registry=REGISTRY)


# -- every actor

actor_event_loop_lag = _histogram(
    "ring_actor_event_loop_lag_seconds", "How late the event loop woke; grows when something computes on it."
)

actor_disk_free = _gauge("ring_actor_disk_free_bytes", "Room left on the disk of the run's folder.")
actor_disk_size = _gauge("ring_actor_disk_size_bytes", "Size of that disk.")
actor_gpu_memory = _gauge("ring_actor_gpu_memory_bytes", "GPU memory that the process's PyTorch has reserved.")

# -- rollout

rollout_generated_tokens = _counter("ring_rollout_generated_tokens", "Response tokens sampled.")
rollout_groups = _counter("ring_rollout_groups", "Groups generated whole.", "source")
rollout_failed_groups = _counter("ring_rollout_failed_groups", "Groups whose reservation went back.", "cause")
rollout_group_seconds = _histogram(
    "ring_rollout_group_seconds", "From a group's reservation to its last token.", buckets=(*_SECONDS, 1000.0, 3000.0)
)
rollout_running_requests = _gauge("ring_rollout_running_requests", "Responses being sampled now.")
rollout_waiting_requests = _gauge("ring_rollout_waiting_requests", "Responses waiting for a slot of the engine.")
rollout_busy_seconds = _counter("ring_rollout_busy_seconds", "Time the engine computed.")
rollout_stage_seconds = _histogram("ring_rollout_stage_seconds", "Fetching a weight version while generation went on.")
rollout_swap_pause = _histogram(
    "ring_rollout_swap_pause_seconds", "No token was sampled for this long because weights were swapped."
)
rollout_kv_age = _histogram(
    "ring_rollout_kv_age_versions",
    "Of a response: how far its keys and values lay behind the weights at most (sglang).",
    buckets=_VERSIONS,
)
rollout_server_restarts = _counter("ring_rollout_server_restarts", "Starts of the engine's server after its first.")
rollout_policy_version = _gauge("ring_rollout_policy_version", "Number of the version sampled from.")
rollout_version_lag = _gauge(
    "ring_rollout_version_lag_versions", "How many versions the engine is behind the newest it heard of."
)
rollout_purged_tokens = _counter(
    "ring_rollout_purged_tokens", "Tokens of unfinished responses that were given up as too old to be trained."
)
rollout_response_tokens = _histogram("ring_rollout_response_tokens", "Length of a response.", "source", buckets=_TOKENS)
rollout_responses = _counter(
    "ring_rollout_responses", "Responses by how they ended: stop, or length where they were cut.", "source", "reason"
)
rollout_waiting_seconds = _counter(
    "ring_rollout_waiting_seconds",
    "What the loop that takes work waits for: weights, a reservation, the end of a pause, or a slot, which is well.",
    "cause",
)

# -- reward

reward_verdicts = _counter("ring_reward_verdicts", "Responses judged.", "verifier")
reward_verdict_seconds = _histogram("ring_reward_verdict_seconds", "Judging one group.", "verifier")
reward_failures = _counter("ring_reward_failures", "Groups no verdict could be had for.", "verifier", "cause")
reward_value = _histogram(
    "ring_reward_value", "Rewards given, by source and verifier epoch.", "source", "epoch",
    buckets=(0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999, 1.0),
)  # fmt: skip
reward_passed = _counter("ring_reward_passed_verdicts", "Responses that earned the full reward.", "source", "epoch")
reward_groups = _counter("ring_reward_groups", "Groups judged.", "source", "epoch")
reward_no_signal = _counter(
    "ring_reward_no_signal_groups",
    "Groups whose responses all earned the same: they train nothing.",
    "source",
    "epoch",
)
reward_verifier_epoch = _gauge("ring_reward_verifier_epoch", "Epoch of the verifier in force.", "verifier")
reward_sandbox_runs = _counter("ring_reward_sandbox_verdicts", "Runs of model-written programs by their end.", "status")
reward_waiting_seconds = _counter(
    "ring_reward_waiting_seconds", "Time in which nothing is judged: for a group, or for replay's commit.", "cause"
)

# -- replay

replay_buffer_tokens = _gauge("ring_replay_buffer_tokens", "Response tokens kept and not yet trained.")
replay_buffer_trajectories = _gauge("ring_replay_buffer_trajectories", "Trajectories kept and not yet retired.")
replay_eligible_tokens = _gauge(
    "ring_replay_eligible_tokens",
    "Tokens that the next batch could take: verdicts not barred.",
)
replay_evicted = _counter("ring_replay_evicted_trajectories", "Trajectories past max_staleness.")
replay_dropped = _counter("ring_replay_dropped_trajectories", "Trajectories dropped for a reason.", "cause")
replay_commits = _counter("ring_replay_commits", "Durable commits of the store.")
replay_commit_seconds = _histogram("ring_replay_commit_seconds", "One durable commit.")
replay_store_bytes = _gauge("ring_replay_store_bytes", "Size of the store on disk.")
replay_batch_wait_seconds = _histogram("ring_replay_batch_wait_seconds", "From the learner's question to its batch.")
replay_staleness = _histogram(
    "ring_replay_staleness_versions", "Staleness of a trajectory when it was planned.", buckets=_VERSIONS
)
replay_waiting_seconds = _counter("ring_replay_waiting_seconds", "Time a question waited for tokens.", "cause")

# -- learner

learner_steps = _counter("ring_learner_steps", "Optimizer steps taken.")
learner_loss_tokens = _counter("ring_learner_loss_tokens", "Tokens trained; Φ for each batch, exactly.")
learner_step_seconds = _histogram("ring_learner_step_seconds", "Training one batch.")
learner_publish_seconds = _histogram("ring_learner_publish_seconds", "Publishing one version, beside the next step.")
learner_checkpoint_seconds = _histogram("ring_learner_checkpoint_seconds", "Writing one durable checkpoint.")
learner_waiting_seconds = _counter(
    "ring_learner_waiting_seconds", "Time between steps: for a batch, the publishing before, a pause.", "cause"
)
learner_policy_version = _gauge("ring_learner_policy_version", "Number of the version being trained.")
learner_effective_sample_size = _gauge(
    "ring_learner_effective_sample_size_ratio", "(Σw)²/(n·Σw²) of the last batch; falls before collapse."
)
learner_entropy = _gauge("ring_learner_entropy_nats", "Mean policy entropy over the last batch.")
learner_grad_norm = _gauge("ring_learner_grad_norm", "Gradient norm of the last step, before clipping.")
learner_reward_mean = _gauge("ring_learner_reward_mean", "Mean reward of the last batch.", "source")
learner_masked_ratio = _gauge(
    "ring_learner_masked_tokens_ratio", "Share of the last batch's tokens that the correction masked."
)
learner_staleness = _gauge("ring_learner_staleness_versions", "Staleness of the last batch.", "statistic")
learner_padding = _gauge("ring_learner_padding_ratio", "Share of the last batch's positions that held no token.")
learner_mismatch_kl = _gauge(
    "ring_learner_mismatch_kl_nats",
    "KL of engine and learner on tokens of the same version: what sampling and training disagree about.",
)
learner_behavior_kl = _gauge("ring_learner_behavior_kl_nats", "KL of the sampling and the trained policy.")
learner_mfu = _gauge(
    "ring_learner_mfu_ratio", "6·parameters·tokens of a step over what its GPU could have computed meanwhile."
)
learner_nonfinite_tokens = _counter("ring_learner_nonfinite_tokens", "Tokens masked for a non-finite ratio.")

# -- evaluator

evaluator_solved = _gauge(
    "ring_evaluator_solved_ratio", "Held-out problems solved: greedy is pass@1, sampled avg@k.", "source", "sampling"
)
evaluator_reward_mean = _gauge("ring_evaluator_reward_mean", "Mean reward on held-out problems.", "source", "sampling")
evaluator_failures = _counter("ring_evaluator_failures", "Answers no verdict could be had for.")
evaluator_evaluation_seconds = _histogram("ring_evaluator_evaluation_seconds", "Evaluating one version.")
evaluator_policy_version = _gauge("ring_evaluator_policy_version", "Number of the version last evaluated.")

# -- controller

controller_reservations = _counter("ring_controller_reservations", "Groups reserved.", "source")
controller_unusable_prompts = _counter(
    "ring_controller_unusable_prompts", "Prompts that cannot be made, or are too long for the model.", "source"
)
controller_reissued = _counter("ring_controller_reissued_groups", "Reservations issued again.", "cause")
controller_trajectories = _gauge("ring_controller_ledger_trajectories", "Trajectories by ledger state.", "state")
controller_members = _gauge("ring_controller_members", "Live actors.", "role")
controller_restarts = _counter("ring_controller_restarts", "Actors started again.", "role")
controller_heartbeat_age = _gauge("ring_controller_heartbeat_age_seconds", "Since an actor was heard.", "actor")
controller_admission_open = _gauge("ring_controller_admission_open", "1 if the last request for work was granted.")
controller_max_staleness = _gauge("ring_controller_max_staleness_versions", "The bound replay.max_staleness in force.")
controller_passed_prompts = _counter(
    "ring_controller_passed_over_prompts", "Prompts outside their source's difficulty window.", "source"
)
controller_ledger_mismatches = _counter(
    "ring_controller_ledger_mismatches",
    "Times that a recount of the ledger differed; never, if all is well.",
)
controller_events = _counter("ring_controller_events", "Changes that a person or a rule made.", "kind")
controller_refused_requests = _counter("ring_controller_refused_requests", "Calls the control API refused.", "cause")

# -- transport, inside any actor

transport_rejected_frames = _counter("ring_transport_rejected_frames", "Messages refused on arrival.", "cause")
transport_sent = _counter("ring_transport_sent_bytes", "Bytes sent.", "peer")
transport_received = _counter("ring_transport_received_bytes", "Bytes received.", "peer")
transport_unacknowledged = _gauge("ring_transport_unacknowledged_messages", "Sent, not yet safe there.", "peer")
transport_resent = _counter("ring_transport_resent_messages", "Sent again after a peer was lost.", "peer")
transport_credit_wait_seconds = _counter("ring_transport_credit_wait_seconds", "Waited for credit.", "peer")


@contextlib.contextmanager
def waiting(counter: Counter, cause: str) -> Iterator[None]:
    """Count the seconds spent inside the block under `cause`, also when it ends in an exception."""
    began_s = monotonic_s()
    try:
        yield
    finally:
        counter.labels(cause=cause).inc(monotonic_s() - began_s)


def values(registry: CollectorRegistry = REGISTRY) -> dict[str, float]:
    """Counters and gauges as `{'ring_reward_failures_total{cause=timeout,verifier=math}': 2.0}`: for logs and tests.

    Histograms appear as their `_sum` and `_count`.
    """
    result = {}
    for family in registry.collect():
        for sample in family.samples:
            if sample.name.endswith(("_bucket", "_created")):
                continue
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            result[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return result
