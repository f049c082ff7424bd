"""The chunked head against the float32 one, in values and gradients."""

import pytest
import torch

from ring_async.algorithms.logprobs import score_tokens
from ring_async.training.hf.head import score_in_chunks


def make_inputs(num_tokens: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_tokens, 5, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(11, 5, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(0, 11, (num_tokens,), generator=generator)
    return hidden, weight, targets, torch.linspace(0.5, 2.0, num_tokens, dtype=torch.float64)


@pytest.mark.parametrize("chunk_tokens", [3, 7, 100])
@pytest.mark.parametrize("entropy_grad", [False, True])
def test_equals_the_whole_head_in_values_and_gradients(chunk_tokens: int, entropy_grad: bool):
    found = []
    for is_chunked in (False, True):
        hidden, weight, targets, temperatures = make_inputs(7)
        if is_chunked:
            logprobs, entropy = score_in_chunks(
                hidden, weight, targets, temperatures, entropy_grad=entropy_grad, chunk_tokens=chunk_tokens
            )
        else:
            logprobs, entropy = score_tokens(hidden, weight, None, targets, temperatures, entropy_grad=entropy_grad)
        assert entropy.requires_grad == entropy_grad
        loss = (logprobs * torch.arange(7)).sum() + (0.3 * entropy.sum() if entropy_grad else 0)
        loss.backward()
        found.append((logprobs.detach(), entropy.detach(), hidden.grad, weight.grad))
    for whole, chunked in zip(*found, strict=True):
        assert torch.allclose(whole, chunked, rtol=1e-10, atol=1e-12)


def test_no_token_at_all_has_a_gradient_of_zero():
    hidden, weight, targets, temperatures = make_inputs(0)
    logprobs, entropy = score_in_chunks(hidden, weight, targets, temperatures)
    assert logprobs.shape == entropy.shape == (0,)
    logprobs.sum().backward()
    assert weight.grad.abs().max() == 0


def test_bfloat16_inputs_give_float32_scores_and_gradients_of_their_own_dtype():
    hidden, weight, targets, temperatures = make_inputs(7, torch.bfloat16)
    logprobs, _ = score_in_chunks(hidden, weight, targets, temperatures.float())
    exact, _ = score_tokens(hidden.double(), weight.double(), None, targets, temperatures)
    assert logprobs.dtype == torch.float32
    assert float((logprobs - exact).detach().abs().max()) < 1e-6  # products of bfloat16 are exact in float32
    logprobs.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
