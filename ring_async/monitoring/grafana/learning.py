"""The board of what is learnt, and whether it is sound: for the person who trains the model."""

from __future__ import annotations

from ring_async.monitoring.grafana.panels import (
    Board,
    Panel,
    Query,
    Unit,
    count_rate,
    mean,
    quantiles,
    rate,
    series,
    share,
)
from ring_async.telemetry import metrics

_BY = ("source", "epoch")
_EACH = "{{source}}, epoch {{epoch}}"

LEARNING = Board(
    uid="ring-async-learning",
    title="ring-async: learning",
    description="What is learnt, from which tokens, and whether it is sound.",
    panels=(
        Panel(
            "Reward by source",
            "Mean of all responses judged, with a signal or without.",
            (Query(mean(metrics.reward_value, "source"), "{{source}}"),),
        ),
        Panel(
            "Full rewards",
            "Share of responses, by source and verifier epoch: what a swap of a verifier did.",
            (Query(share(rate(metrics.reward_passed, *_BY), count_rate(metrics.reward_value, *_BY)), _EACH),),
            Unit.SHARE,
        ),
        Panel(
            "Groups without a signal",
            "All K responses earned the same. Above half: prompts are too easy or too hard; give sources a window.",
            (Query(share(rate(metrics.reward_no_signal, *_BY), rate(metrics.reward_groups, *_BY)), _EACH),),
            Unit.SHARE,
        ),
        Panel(
            "Held-out problems solved",
            "By the evaluator, greedily and sampled.",
            (Query(series(metrics.evaluator_solved), "{{source}}, {{sampling}}"),),
            Unit.SHARE,
            only="runs with evaluation.every_versions",
        ),
        Panel(
            "Effective sample size",
            "(Σw)²/(n·Σw²) of the last batch. It falls before the reward does.",
            (Query(series(metrics.learner_effective_sample_size), "share of the batch"),),
            Unit.SHARE,
        ),
        Panel("Entropy", "Nats a token.", (Query(series(metrics.learner_entropy), "policy"),)),
        Panel(
            "Staleness of batches",
            "Versions between sampling and training, against the bound in force.",
            (
                Query(series(metrics.learner_staleness), "{{statistic}}"),
                Query(series(metrics.controller_max_staleness), "bound"),
            ),
        ),
        Panel(
            "Divergence of policies",
            "`mismatch`: engine and learner at the same version, from numerics alone. `behavior`: from staleness too.",
            (
                Query(series(metrics.learner_mismatch_kl), "mismatch"),
                Query(series(metrics.learner_behavior_kl), "behavior"),
            ),
        ),
        Panel(
            "Tokens that the correction masked",
            "Rising: much is thrown away. Lower max_staleness, or look at the mismatch.",
            (Query(series(metrics.learner_masked_ratio), "masked"),),
            Unit.SHARE,
        ),
        Panel("Gradient norm", "Before clipping.", (Query(series(metrics.learner_grad_norm), "norm"),)),
        Panel(
            "Non-finite tokens",
            "Masked for a ratio that is no number. Any is a reason to look.",
            (Query(f"increase({series(metrics.learner_nonfinite_tokens)}[5m])", "in 5 minutes"),),
        ),
        Panel(
            "Length of responses",
            "Tokens.",
            quantiles(metrics.rollout_response_tokens, "length"),
        ),
        Panel(
            "Cut responses",
            "Share that reached rollout.max_tokens. Above a quarter: raise it, or the reward punishes length alone.",
            (
                Query(
                    share(
                        rate(metrics.rollout_responses, "source", matchers=('reason="length"',)),
                        rate(metrics.rollout_responses, "source"),
                    )
                    + f" or 0 * {rate(metrics.rollout_responses, 'source')}",
                    "{{source}}",
                ),
            ),
            Unit.SHARE,
        ),
        Panel("A step", "Training one batch.", quantiles(metrics.learner_step_seconds, "step"), Unit.SECONDS),
        Panel(
            "Model FLOPs utilisation",
            "6·parameters·tokens over what the GPU could have computed.",
            (Query(series(metrics.learner_mfu), "MFU"),),
            Unit.SHARE,
        ),
        Panel(
            "Padding",
            "Share of positions without a token: what packing could not fill.",
            (Query(series(metrics.learner_padding), "padding"),),
            Unit.SHARE,
        ),
    ),
)
