"""Rules over what is learned from: signal, length, sources, ratios, numbers that are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ring_async.core.event_kinds import EventKind
from ring_async.core.explain.finding import Cause, Finding, Gravity, clock, listed, share
from ring_async.core.explain.growth import completed_growth, ended_growth
from ring_async.core.explain.history import Happening, Step
from ring_async.core.explain.starvation import mean_length
from ring_async.core.explain.view import View

NO_SIGNAL_SHARE = 0.5
TRUNCATED_SHARE = 0.8
"""Mean length over the longest allowed; above it, most responses are cut."""
LOW_SAMPLE_SIZE = 0.5
MASKED_SHARE = 0.2
CLIPPED_SHARE = 0.3
LOW_ENTROPY = 0.02
"""Nats a token."""
FELL_TO = 0.6
NUM_STEPS_AFTER = 5

_CHANGES = (
    EventKind.VERIFIER_SWAPPED,
    EventKind.VERIFIER_ROLLED_BACK,
    EventKind.MIXTURE_CHANGED,
    EventKind.KNOBS_CHANGED,
    EventKind.DIFFICULTY_CHANGED,
)


def no_signal(view: View) -> Iterator[Finding]:
    """Most groups are dropped, because all their responses got one reward."""
    if not view.has_rates or (ended := completed_growth(view.recent)) < 20:
        return
    dropped = ended_growth(view.recent, "dropped(no_signal")
    if dropped / ended < NO_SIGNAL_SHARE:
        return
    means = {source: mean for source, mean in _rewards(view).items() if mean <= 0.1 or mean >= 0.9}
    which = listed([f"{source} (mean reward {mean:.2f})" for source, mean in sorted(means.items())])
    yield Finding(
        cause=Cause.NO_SIGNAL, gravity=Gravity.SYMPTOM, who=next(iter(sorted(means)), ""),
        what=f"{view.starved_words}{share(dropped / ended)} of what is judged carries no signal: all responses to a "
        f"prompt get the same reward{f'; most of all {which}' if which else ''}.",
        remedy="Choose prompts that are sometimes solved (ring-async mixture --difficulty SOURCE=observed:0.2:0.8), or "
        "raise rollout.group_size.",
    )  # fmt: skip


def _rewards(view: View) -> dict[str, float]:
    """Mean reward by source, over the last minutes."""
    first, last = view.recent[0].scored, view.newest.scored
    means = {}
    for source, (number, total) in last.items():
        before, reward = first.get(source, (0, 0.0))
        if number > before:
            means[source] = (total - reward) / (number - before)
    return means


def starving_source(view: View) -> Iterator[Finding]:
    """A source has a share of the mixture, and nothing of it arrives."""
    if not view.has_rates or completed_growth(view.recent) < 20:
        return
    first, last = view.recent[0].scored, view.newest.scored
    for source, weight in view.newest.mixture.items():
        before = first.get(source, (0, 0.0))[0]
        if weight < 0.02 or source in view.newest.paused_sources or last.get(source, (0, 0.0))[0] > before:
            continue
        if source not in view.recent[0].mixture:
            continue  # it was added a moment ago: give it time
        why, remedy = _why_starving(view, source)
        yield Finding(
            cause=Cause.STARVING_SOURCE, gravity=Gravity.SYMPTOM, who=source,
            what=f"Source {source} should be {share(weight)} of what is trained; nothing of it was judged in "
            f"{view.recent_words}{why}.",
            remedy=remedy,
        )  # fmt: skip


def _why_starving(view: View, source: str) -> tuple[str, str]:
    empty = [
        e for e in view.events if e.kind == EventKind.DIFFICULTY_WINDOW_EMPTY and e.details.get("source") == source
    ]
    if empty:
        passed = empty[-1].details.get("num_passed", "many")
        return (
            f", because {passed} prompts in a row lie outside its difficulty window",
            f"Widen the window, or lift it: ring-async mixture --difficulty {source}=any",
        )
    failed = [
        e
        for e in view.events
        if e.kind in {EventKind.DOMAIN_PAUSED, EventKind.SCHEDULE_REFUSED} and source in str(e.details)
    ]
    why = f" (see {failed[-1].kind} at {clock(failed[-1].time)})" if failed else ""
    return why, "Its file or task may have run out of prompts: ring-async data inspect CONFIG"


def truncated(view: View) -> Iterator[Finding]:
    """Most responses reach the longest length and are cut."""
    length = mean_length(view.recent) if view.has_rates else None
    if length is not None and view.limits.max_tokens and length >= TRUNCATED_SHARE * view.limits.max_tokens:
        yield Finding(
            cause=Cause.TRUNCATED, gravity=Gravity.SYMPTOM,
            what=f"Responses have {length:,.0f} tokens in the mean, of rollout.max_tokens {view.limits.max_tokens:,}: "
            "most are cut before their answer.",
            remedy="Raise rollout.max_tokens, or reward shorter responses.",
        )  # fmt: skip


def nonfinite(view: View) -> Iterator[Finding]:
    """Tokens were left out of the loss because a number of theirs was none."""
    bad = sum(one.nonfinite_tokens or 0 for one in view.recent_steps)
    trained = sum(one.loss_tokens or 0 for one in view.recent_steps)
    steps = [one for one in view.recent_steps if one.nonfinite_tokens]
    if bad:
        yield Finding(
            cause=Cause.NONFINITE, gravity=Gravity.SYMPTOM,
            what=f"{bad:,} tokens of {len(steps)} steps (of {trained:,} trained), the first at version "
            f"{steps[0].policy_version} ({clock(steps[0].time)}), had a ratio that is no finite number, and were left "
            "out.",
            remedy="Lower learner.learning_rate or rollout.temperature; mismatch_ratio shows whether engine and "
            "learner agree.",
        )  # fmt: skip


def low_sample_size(view: View) -> Iterator[Finding]:
    """A few tokens carry the whole gradient."""
    sizes = _last(view, lambda one: one.effective_sample_size)
    if len(sizes) >= NUM_STEPS_AFTER and (mean := sum(sizes) / len(sizes)) < LOW_SAMPLE_SIZE:
        yield Finding(
            cause=Cause.LOW_SAMPLE_SIZE, gravity=Gravity.SYMPTOM,
            what=f"The effective sample size is {mean:.2f} of 1 over the last {len(sizes)} steps: few tokens carry the "
            "gradient, and the policy may collapse.",
            remedy="Lower replay.max_staleness or learner.learning_rate.",
        )  # fmt: skip


def masked(view: View) -> Iterator[Finding]:
    """The correction throws much of the batch away."""
    masks = _last(view, lambda one: one.behavior_ratio_masked)
    if len(masks) >= NUM_STEPS_AFTER and (mean := sum(masks) / len(masks)) >= MASKED_SHARE:
        yield Finding(
            cause=Cause.MASKED, gravity=Gravity.SYMPTOM,
            what=f"The correction masks {share(mean)} of the tokens of the last {len(masks)} steps: what is trained "
            "was sampled by a policy that differs too much.",
            remedy="Lower replay.max_staleness or learner.learning_rate.",
        )  # fmt: skip


def clipped(view: View) -> Iterator[Finding]:
    """The policy moves so far within a batch that much of it has no gradient."""
    shares = _last(view, lambda one: one.policy_ratio_clipped)
    if len(shares) >= NUM_STEPS_AFTER and (mean := sum(shares) / len(shares)) >= CLIPPED_SHARE:
        yield Finding(
            cause=Cause.CLIPPED, gravity=Gravity.SYMPTOM,
            what=f"{share(mean)} of the tokens of the last {len(shares)} steps were clipped: the policy moves too far "
            "within a batch, and these tokens teach nothing.",
            remedy="Lower learner.learning_rate or budget.minibatches_per_batch, or widen correction.clip_low and "
            "clip_high.",
        )  # fmt: skip


def entropy_fell(view: View) -> Iterator[Finding]:
    """The policy hardly varies any more."""
    entropies = _last(view, lambda one: one.entropy)
    known = [one.entropy for one in view.steps if one.entropy is not None]
    if len(entropies) < NUM_STEPS_AFTER or len(known) < 4 * NUM_STEPS_AFTER:
        return
    was, now_is = sum(known[:NUM_STEPS_AFTER]) / NUM_STEPS_AFTER, sum(entropies) / len(entropies)
    if now_is < LOW_ENTROPY and was >= 10 * LOW_ENTROPY:
        yield Finding(
            cause=Cause.ENTROPY_FELL, gravity=Gravity.SYMPTOM,
            what=f"The policy's entropy fell from {was:.2f} to {now_is:.3f} nats a token: all responses to a prompt "
            "become the same, and nothing more can be learnt from them.",
            remedy="Go back to a checkpoint before the fall; then lower learner.learning_rate, or set "
            "loss.entropy_coefficient.",
        )  # fmt: skip


def reward_fell(view: View) -> Iterator[Finding]:
    """After a change of people, a source's reward fell."""
    for change in reversed(view.recent_events(*_CHANGES)):
        before = [one for one in view.steps if one.time < change.time][-2 * NUM_STEPS_AFTER :]
        after = [one for one in view.steps if one.time > change.time][-NUM_STEPS_AFTER:]
        if len(before) < NUM_STEPS_AFTER or len(after) < NUM_STEPS_AFTER:
            continue
        for source in sorted({name for one in after for name in one.reward_by_source or {}}):
            was, now = _mean_reward(before, source), _mean_reward(after, source)
            if was is not None and now is not None and was >= 0.1 and now <= FELL_TO * was:
                yield Finding(
                    cause=Cause.REWARD_FELL, gravity=Gravity.SYMPTOM, who=source,
                    what=f"The mean reward of {source} fell from {was:.2f} to {now:.2f} since {_named(change)} "
                    f"({clock(change.time)}, by {change.author}).",
                    remedy=_undo(change),
                )  # fmt: skip
                return


def _named(change: Happening) -> str:
    if verifier := change.details.get("verifier"):
        return f"verifier {verifier} epoch {(change.details.get('after') or {}).get('epoch', '?')}"
    return change.kind.replace("_", " ")


def _undo(change: Happening) -> str:
    if verifier := change.details.get("verifier"):
        return f"If the new verdicts are wrong: ring-async rollback verifier {verifier}"
    return f"Before it was: {change.details.get('before')}"


def _mean_reward(steps: Sequence[Step], source: str) -> float | None:
    values = [rewards[source] for one in steps if source in (rewards := one.reward_by_source or {})]
    return sum(values) / len(values) if values else None


def _last(view: View, figure: Callable[[Step], float | None]) -> list[float]:
    return [value for one in view.warm_steps[-10:] if (value := figure(one)) is not None] if view.has_rates else []
