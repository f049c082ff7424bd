"""The board of who waits for whom: for the person who runs the fleet."""

from __future__ import annotations

from ring_async.monitoring.grafana.panels import (
    RUN,
    Board,
    Panel,
    Query,
    Unit,
    busy,
    quantile,
    quantiles,
    rate,
    series,
)
from ring_async.telemetry import metrics

FLEET = Board(
    uid="ring-async-fleet",
    title="ring-async: fleet",
    description="Who waits for whom, and what the machines do.",
    panels=(
        Panel(
            "Tokens a second",
            "Generated and trained. Generated far above trained: much is dropped or evicted, see Data and weights.",
            (
                Query(rate(metrics.rollout_generated_tokens), "generated"),
                Query(rate(metrics.learner_loss_tokens), "trained"),
            ),
            Unit.PER_S,
        ),
        Panel(
            "The learner's time",
            "Shares of a second. Much `batch`: generation or judging is slow. Much `publish`: the weight channel is.",
            (
                Query(busy(metrics.learner_step_seconds), "trains"),
                Query(rate(metrics.learner_waiting_seconds, "cause"), "waits: {{cause}}"),
            ),
            Unit.SHARE,
            is_stacked=True,
        ),
        Panel(
            "What rollouts wait for",
            "Shares of a second, summed over rollouts. `slot` is well: the engine is full. `reservation`: admission "
            "holds them back, so the learner is the bottleneck.",
            (Query(rate(metrics.rollout_waiting_seconds, "cause"), "{{cause}}"),),
            Unit.SHARE,
            is_stacked=True,
        ),
        Panel(
            "Engines at work",
            "Share of the time in which each engine computed.",
            (Query(rate(metrics.rollout_busy_seconds, "actor"), "{{actor}}"),),
            Unit.SHARE,
        ),
        Panel(
            "What reward actors wait for",
            "Shares of a second, summed. Little `group` means that judging is the bottleneck: scale reward.",
            (Query(rate(metrics.reward_waiting_seconds, "cause"), "{{cause}}"),),
            Unit.SHARE,
            is_stacked=True,
        ),
        Panel(
            "The learner's question",
            "How long replay held it before there was a batch.",
            quantiles(metrics.replay_batch_wait_seconds, "wait"),
            Unit.SECONDS,
        ),
        Panel(
            "Responses in the engines",
            "Being sampled, and waiting for a slot.",
            (
                Query(f"sum({series(metrics.rollout_running_requests)})", "sampled"),
                Query(f"sum({series(metrics.rollout_waiting_requests)})", "waiting"),
            ),
        ),
        Panel(
            "Admission",
            "1 while the last request for work was granted.",
            (Query(series(metrics.controller_admission_open), "open"),),
        ),
        Panel(
            "Live actors",
            "By role, and how many were started again.",
            (
                Query(f"sum by (exported_role) ({series(metrics.controller_members)})", "{{exported_role}}"),
                Query(f"sum({series(metrics.controller_restarts)}) or vector(0)", "started again"),
            ),
        ),
        Panel(
            "Silence",
            "Seconds since the controller heard an actor.",
            (Query(series(metrics.controller_heartbeat_age), "{{exported_actor}}"),),
            Unit.SECONDS,
        ),
        Panel(
            "Event loops",
            "How late they wake, 99 %. Above 0.1 s something computes on one.",
            (Query(quantile(0.99, metrics.actor_event_loop_lag, "actor"), "{{actor}}"),),
            Unit.SECONDS,
        ),
        Panel(
            "Processors",
            "CPU seconds a second, by actor.",
            (Query(f"sum by (actor) (rate(process_cpu_seconds_total{{{RUN}}}[$__rate_interval]))", "{{actor}}"),),
        ),
        Panel(
            "Memory",
            "Resident, by actor.",
            (Query(f"process_resident_memory_bytes{{{RUN}}}", "{{actor}}"),),
            Unit.BYTES,
        ),
        Panel(
            "GPU memory",
            "What PyTorch has reserved, by actor.",
            (Query(series(metrics.actor_gpu_memory), "{{actor}}"),),
            Unit.BYTES,
        ),
        Panel(
            "Room on disk",
            "Of the run's folder on each host.",
            (Query(series(metrics.actor_disk_free), "{{actor}}"),),
            Unit.BYTES,
        ),
        Panel(
            "Unacknowledged messages",
            "Sent and not yet safe there. Growing: the receiver is too slow, and credit will run out.",
            (Query(f"sum by (actor) ({series(metrics.transport_unacknowledged)})", "{{actor}}"),),
        ),
    ),
)
