"""One token at a time: a reproducible stream, the right distribution, the right log-probability."""

import numpy as np
import pytest
import torch

from ring_async.engines.embedded.sampling import sample, uniforms


def draws_of(seed: int, indices: range) -> np.ndarray:
    return uniforms(np.full(len(indices), seed, dtype=np.uint64), np.array(indices))


def test_a_stream_is_the_same_in_any_order_and_company() -> None:
    alone = [float(uniforms(np.array([7], np.uint64), np.array([index]))[0]) for index in (3, 0, 2, 1)]
    together = uniforms(np.array([9, 7, 7, 7, 7], np.uint64), np.array([0, 3, 0, 2, 1]))
    assert alone == together[1:].tolist()


def test_streams_are_uniform_and_do_not_follow_one_another() -> None:
    first, second = draws_of(1, range(20_000)), draws_of(2, range(20_000))
    assert 0.0 <= first.min() < 0.001
    assert 0.999 < first.max() < 1.0
    np.testing.assert_allclose(np.histogram(first, bins=10, range=(0, 1))[0] / 20_000, 0.1, atol=0.01)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.03


def test_tokens_follow_the_tempered_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    temperature = 0.7
    rows = 20_000
    tokens, logprobs = sample(
        logits.expand(rows, 4), torch.full((rows,), temperature), torch.from_numpy(draws_of(5, range(rows)))
    )
    wanted = torch.softmax(logits / temperature, dim=0)
    shares = torch.bincount(tokens, minlength=4) / rows
    torch.testing.assert_close(shares, wanted, atol=0.01, rtol=0)
    torch.testing.assert_close(logprobs, wanted.log()[tokens])


@pytest.mark.parametrize(("draw", "token"), [(0.0, 1), (0.499, 1), (0.501, 3), (1 - 2**-53, 3)])
def test_an_impossible_token_is_never_drawn(draw: float, token: int) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    tokens, logprobs = sample(logits, torch.ones(1), torch.tensor([draw], dtype=torch.float64))
    assert tokens.tolist() == [token]
    assert logprobs.tolist() == pytest.approx([-0.6931472])


def test_temperature_zero_takes_the_most_likely_and_is_certain() -> None:
    tokens, logprobs = sample(
        torch.tensor([[0.0, 3.0, 1.0], [5.0, 0.0, 0.0]]),
        torch.tensor([0.0, 0.0]),
        torch.tensor([0.99, 0.99], dtype=torch.float64),
    )
    assert tokens.tolist() == [1, 0]
    assert logprobs.tolist() == [0.0, 0.0]
