"""The runs that are recorded for `explain`: what is planted in each, and the cause that must be said."""

from __future__ import annotations

from planted_deeds import (
    both,
    cut_weights,
    fill_disk,
    grow_hard,
    hog,
    jump_clock,
    kill_again_and_again,
    kill_for_good,
    lengthen,
    lengthen_prompts,
    pause,
    press_kv_cache,
    slow_actor,
    slow_commits,
    slow_disk,
    slow_network,
    stop_evaluator,
    swap,
)
from planted_fleet import COIN, PLANTED_S, Plan

PLANS: dict[str, Plan] = {
    # the ten that were named beforehand
    "slow_verifier": Plan("slow_verifier", {"reward__credits": 2}, deed=swap(delay_s=6.0)),
    "dead_rollout": Plan("dead_actor", deed=kill_for_good),
    "small_admission": Plan(
        "small_admission",
        {"replay__max_staleness": 1, "rollout__max_running_requests": 64},
        mean_tokens=96.0,
        train_s=2.0,
    ),
    "full_disk": Plan("full_disk", deed=fill_disk),
    "stale_weights": Plan("stale_weights", deed=cut_weights),
    "no_signal": Plan("no_signal", deed=swap(solved=0.99)),
    "long_responses": Plan("long_responses", mean_tokens=24.0, later_tokens=120.0, train_s=5.5, deed=lengthen),
    "slow_channel": Plan("slow_channel", publish_s=15.0),
    "starving_source": Plan(
        "starving_source", {"difficulty": {"letters": {"by": "last_digit", "low": 0, "high": 9}}}, deed=grow_hard
    ),
    "learner_bound": Plan("learner_bound", train_s=25.0),
    # others
    "dead_reward": Plan("dead_actor", {"reward__num": 1}, deed=lambda fleet: kill_for_good(fleet, "reward-0")),
    "crash_loop": Plan("dead_actor", deed=kill_again_and_again),
    "paused": Plan("paused", deed=pause),
    "nonfinite": Plan("nonfinite", metrics={"nonfinite_tokens": 12}),
    "low_sample_size": Plan("low_sample_size", metrics={"effective_sample_size": 0.2}),
    "masked": Plan("masked", metrics={"behavior_ratio_masked": 0.4}),
    "failing_source": Plan(
        "failing_verifier",
        {
            "sources": {
                "sums": {"task": "chain_sum", "verifier": "exact"},
                "letters": {"task": "chain_sum", "verifier": "odd"},
            },
            "verifiers": {
                "exact": {"use": COIN},
                "odd": {"use": COIN, "options": {"broken": "letters", "after_s": PLANTED_S}},
            },
        },
    ),
    "truncated": Plan("truncated", later_tokens=3000.0, settings={"rollout__max_tokens": 64}, mean_tokens=40.0),
    "slow_checkpoint": Plan("slow_checkpoint", {"checkpoint__every_versions": 5}, checkpoint_s=45.0),
    "imbalance": Plan("imbalance", {"rollout__num": 3}, token_s={"rollout-2": 0.2}),
    "slow_commits": Plan("slow_commits", deed=slow_commits),
    "clock_jump": Plan("clock_jumped", deed=jump_clock),
    "reward_fell": Plan("reward_fell", deed=swap(solved=0.15)),
    "few_rollouts": Plan("generation_bound", {"rollout__num": 1}),
    "evaluator_stuck": Plan("evaluator_stuck", {"evaluation__every_versions": 5}, deed=stop_evaluator),
    # ten that were asked afterwards
    "two_causes": Plan("dead_actor", {"reward__credits": 2, "reward__num": 1}, also="slow_verifier", deed=both),
    "one_slow_reward": Plan("slow_reward", {"reward__num": 4}, who="reward-0", deed=slow_actor("reward-0", 8.0)),
    "slow_network": Plan("late_weights", who="rollout-1", deed=slow_network),
    "flapping_verifier": Plan(
        "failing_verifier",
        {"verifiers": {"exact": {"use": COIN, "options": {"broken": "sums", "after_s": PLANTED_S, "every_s": 40.0}}}},
    ),
    "clipped": Plan("clipped", metrics={"policy_ratio_clipped": 0.45}),
    "slow_disk": Plan("slow_commits", deed=slow_disk),
    "slow_learner": Plan("slow_step", later_train_s=20.0),
    "kv_pressure": Plan("generation_bound", deed=press_kv_cache),
    "entropy_fell": Plan("entropy_fell", metrics={"entropy": 0.004}),
    "evaluator_hogs": Plan("generation_bound", {"evaluation__every_versions": 2}, deed=lambda fleet: hog(fleet, 12.0)),
    # two in which the learner is fed all the same: nothing is to be said
    "quiet_long_prompts": Plan(deed=lengthen_prompts),
    "quiet_evaluator": Plan(settings={"evaluation__every_versions": 2}, deed=lambda fleet: hog(fleet, 3.0)),
}

for _seed in range(20):
    PLANS[f"healthy_{_seed:02d}"] = Plan(
        settings={
            "rollout__num": 2 + _seed % 3,
            "rollout__max_running_requests": (20, 14, 11)[_seed % 3],
            "reward__num": 1 + _seed % 2,
            "reward__credits": 8,
            "replay__max_staleness": 3 + _seed % 4,
            "checkpoint__every_versions": 10 + _seed,
            "evaluation__every_versions": 10 * (_seed % 2),
        },
        mean_tokens=36.0 + 2 * _seed,
        train_s=5.0 + 0.05 * _seed,
        seed=_seed,
    )

_OTHER_HEALTHY: dict[str, Plan] = {
    "sync": Plan(settings={"mode": "sync"}),
    "sync_two_rewards": Plan(settings={"mode": "sync", "reward__num": 2}, seed=31),
    "one_source": Plan(settings={"mixture": {"sums": 1.0}}, seed=32),
    "uneven_mixture": Plan(settings={"mixture": {"sums": 9.0, "letters": 1.0}}, seed=33),
    "code": Plan(settings={"verifiers": {"exact": {"use": COIN, "options": {"delay_s": 2.0}}}, "reward__credits": 16}),
    "quick_verifier": Plan(settings={"verifiers": {"exact": {"use": COIN, "options": {"delay_s": 0.0}}}}, seed=35),
    "hard": Plan(settings={"verifiers": {"exact": {"use": COIN, "options": {"solved": 0.3}}}}, seed=36),
    "easy": Plan(settings={"verifiers": {"exact": {"use": COIN, "options": {"solved": 0.7}}}}, seed=37),
    "large_groups": Plan(settings={"rollout__group_size": 16, "rollout__max_running_requests": 32}, seed=38),
    "small_batches": Plan(settings={"budget__token_budget": 1024}, train_s=2.5, seed=39),
    "large_batches": Plan(settings={"budget__token_budget": 8192}, train_s=12.0, seed=40),
    "small_buffer": Plan(settings={"replay__max_buffer_tokens": 8192}, seed=41),
    "patient": Plan(settings={"replay__max_staleness": 16}, seed=42),
    "many_rollouts": Plan(settings={"rollout__num": 6, "rollout__max_running_requests": 7}, seed=43),
    "many_rewards": Plan(settings={"reward__num": 6}, seed=44),
    "short_responses": Plan(mean_tokens=20.0, seed=45),
    "checkpoints_often": Plan(settings={"checkpoint__every_versions": 2}, checkpoint_s=2.0, seed=46),
    "evaluates_often": Plan(settings={"evaluation__every_versions": 1}, seed=47),
    "reprefill": Plan(settings={"rollout__on_update": "reprefill"}, seed=48),
    "two_replays": Plan(settings={"replay__num": 2}, seed=49),
}
PLANS |= {f"healthy_{_name}": _plan for _name, _plan in _OTHER_HEALTHY.items()}
