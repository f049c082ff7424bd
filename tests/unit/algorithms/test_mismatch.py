import pytest
import torch

from ring_async.algorithms.mismatch import MismatchMoments


def test_no_estimate_before_fresh_tokens_were_seen():
    moments = MismatchMoments()
    log_w, staleness = torch.zeros(100), torch.full((100,), 2)
    moments.update(log_w, staleness)
    assert moments.estimate(log_w, staleness) is None


def test_the_estimate_shrinks_by_the_ratio_of_variances():
    moments = MismatchMoments()
    fresh = torch.tensor([0.1, -0.1]).repeat(50)
    stale = torch.tensor([1.2, 0.8]).repeat(50)
    moments.update(torch.cat([fresh, stale]), torch.cat([torch.zeros(100), torch.full((100,), 3)]).long())
    found = moments.estimate(torch.tensor([0.7, 1.2, 1.6, 0.4]), torch.tensor([0, 3, 3, 9]))
    # mean_3 = 1, variance ratio 0.01 / 0.04; staleness 9 is unknown and keeps its own value.
    assert found.tolist() == pytest.approx([0.7, 0.05, 0.15, 0.4], abs=1e-6)


def test_the_past_fades():
    moments = MismatchMoments()
    moments.update(torch.full((64,), 1.0), torch.zeros(64).long())
    for _ in range(60):
        moments.update(torch.tensor([0.1, -0.1]).repeat(32), torch.zeros(64).long())
    moments.update(torch.tensor([0.1, -0.1]).repeat(32) + 5, torch.ones(64).long())
    found = moments.estimate(torch.tensor([5.1]), torch.tensor([1]))
    assert float(found) == pytest.approx(0.1, abs=0.05)


def test_state_survives_a_checkpoint():
    moments, restored = MismatchMoments(), MismatchMoments()
    moments.update(torch.linspace(-1, 1, 80), torch.arange(80) % 2)
    restored.restore(moments.state())
    log_w, staleness = torch.tensor([0.3, -0.8]), torch.tensor([1, 1])
    assert torch.equal(moments.estimate(log_w, staleness), restored.estimate(log_w, staleness))
