"""The board of where tokens and weights are: for the person who asks why a batch or a version is late."""

from __future__ import annotations

from ring_async.monitoring.grafana.panels import (
    Board,
    Panel,
    Query,
    Unit,
    quantile,
    quantiles,
    rate,
    series,
    whole_mean,
)
from ring_async.telemetry import metrics

DATA = Board(
    uid="ring-async-data",
    title="ring-async: data and weights",
    description="Where tokens and weight versions are, and what becomes of them.",
    panels=(
        Panel(
            "The buffer",
            "Response tokens kept and not yet trained; eligible: what the next batch could take.",
            (
                Query(f"sum({series(metrics.replay_buffer_tokens)})", "buffered"),
                Query(f"sum({series(metrics.replay_eligible_tokens)})", "eligible"),
            ),
        ),
        Panel(
            "Trajectories under way",
            "By state of the ledger; ended ones are left out.",
            (
                Query(
                    series(metrics.controller_trajectories, 'state=~"generating|generated|scored|buffered|consumed"'),
                    "{{state}}",
                ),
            ),
            is_stacked=True,
        ),
        Panel(
            "Groups generated",
            "A second, by source.",
            (Query(rate(metrics.rollout_groups, "source"), "{{source}}"),),
            Unit.PER_S,
        ),
        Panel(
            "Tokens lost",
            "Trajectories a second that were evicted (too old) or dropped, by cause.",
            (
                Query(rate(metrics.replay_evicted), "evicted"),
                Query(rate(metrics.replay_dropped, "cause"), "dropped: {{cause}}"),
            ),
            Unit.PER_S,
        ),
        Panel(
            "Staleness when planned",
            "Versions, of each trajectory in a plan.",
            quantiles(metrics.replay_staleness, "staleness"),
        ),
        Panel(
            "A group's time",
            "From its reservation to its last token; judging; one durable commit. Ninth deciles.",
            (
                Query(quantile(0.9, metrics.rollout_group_seconds), "generating"),
                Query(quantile(0.9, metrics.reward_verdict_seconds), "judging"),
                Query(quantile(0.9, metrics.replay_commit_seconds), "commit"),
            ),
            Unit.SECONDS,
        ),
        Panel(
            "Groups reserved and issued again",
            "A second. Many again: leases run out or actors die.",
            (
                Query(rate(metrics.controller_reservations), "reserved"),
                Query(rate(metrics.controller_reissued) + " or vector(0)", "again"),
            ),
            Unit.PER_S,
        ),
        Panel(
            "Verifiers that fail",
            "Share of groups no verdict could be had for. A failure is never a reward of 0.",
            (
                Query(
                    f"{rate(metrics.reward_failures, 'verifier', 'cause')} / on () group_left () "
                    f"({rate(metrics.reward_groups)} > 0)",
                    "{{verifier}}: {{cause}}",
                ),
            ),
            Unit.SHARE,
            only="faults",
        ),
        Panel(
            "Programs in the sandbox",
            "Runs a second of model-written programs, by how they ended.",
            (Query(rate(metrics.reward_sandbox_runs, "status"), "{{status}}"),),
            Unit.PER_S,
            only="sources judged by running code",
        ),
        Panel(
            "Prompts passed over",
            "A second, outside their source's difficulty window.",
            (Query(rate(metrics.controller_passed_prompts, "source"), "{{source}}"),),
            Unit.PER_S,
            only="sources with a difficulty window",
        ),
        Panel(
            "A version's way",
            "Publishing, beside the next step; staging, while generation goes on; a checkpoint. Ninth deciles.",
            (
                Query(quantile(0.9, metrics.learner_publish_seconds), "publish"),
                Query(quantile(0.9, metrics.rollout_stage_seconds), "stage"),
                Query(whole_mean(metrics.learner_checkpoint_seconds), "checkpoint, mean of all"),
            ),
            Unit.SECONDS,
        ),
        Panel(
            "The pause of a swap",
            "No token was sampled for this long.",
            quantiles(metrics.rollout_swap_pause, "pause"),
            Unit.SECONDS,
        ),
        Panel(
            "Versions behind",
            "How far each engine lies behind the newest version.",
            (Query(series(metrics.rollout_version_lag), "{{actor}}"),),
        ),
        Panel(
            "Age of the KV cache",
            "Versions that a response's keys and values lay behind the weights at most, 90 %.",
            (Query(quantile(0.9, metrics.rollout_kv_age, "actor"), "{{actor}}"),),
            only="rollout.engine: sglang",
        ),
        Panel(
            "Bytes between actors",
            "Received a second.",
            (Query(rate(metrics.transport_received, "actor"), "{{actor}}"),),
            Unit.BYTES_PER_S,
        ),
        Panel(
            "The store",
            "Bytes on disk, by shard.",
            (Query(series(metrics.replay_store_bytes), "{{actor}}"),),
            Unit.BYTES,
        ),
    ),
)
