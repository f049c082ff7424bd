import pytest
import torch

from ring_async.errors import ConfigError
from ring_async.training.hf.attention import AttentionBlocks, attend


def make_blocks() -> AttentionBlocks:
    # Flat tokens 0-2 are a prompt of two responses, 3-4 and 5; 6-7 are a sequence of their own.
    return AttentionBlocks(
        gathers=(torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 5, 0]]), torch.tensor([[6, 7]])),
        scatter=torch.tensor([0, 1, 2, 3, 4, 8, 10, 11]),
    )


SEQUENCES = ([0, 1, 2, 3, 4], [0, 1, 2, 5], [6, 7])


def make_states(num_heads: int) -> torch.Tensor:
    return torch.randn(1, num_heads, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(num_heads))


def by_hand(query, key, value, scaling):
    """Softmax attention of every token over its own sequence's tokens so far, one at a time."""
    outputs = {}
    repeats = query.shape[1] // key.shape[1]
    for sequence in SEQUENCES:
        for last, token in enumerate(sequence):
            seen = sequence[: last + 1]
            heads = []
            for head in range(query.shape[1]):
                scores = key[0, head // repeats, seen] @ query[0, head, token] * scaling
                heads.append(scores.softmax(0) @ value[0, head // repeats, seen])
            outputs[token] = torch.stack(heads)
    return torch.stack([outputs[token] for token in range(8)])[None]


@pytest.mark.parametrize("num_key_value_heads", [1, 2])
def test_equals_attention_by_hand_in_value_and_gradient(num_key_value_heads):
    states = [make_states(2), make_states(num_key_value_heads), make_states(num_key_value_heads) + 1]
    gradients = []
    for function in (
        lambda q, k, v: attend(torch.nn.Identity(), q, k, v, None, blocks=make_blocks(), scaling=0.3)[0],
        lambda q, k, v: by_hand(q, k, v, 0.3),
    ):
        inputs = [state.clone().requires_grad_() for state in states]
        output = function(*inputs)
        (output * torch.arange(output.numel(), dtype=torch.float64).view(output.shape).cos()).sum().backward()
        gradients.append([output.detach(), *(tensor.grad for tensor in inputs)])
    for found, expected in zip(*gradients, strict=True):
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_features_that_would_change_the_model_are_refused():
    states = [make_states(2) for _ in range(3)]
    with pytest.raises(ConfigError, match="softcap"):
        attend(torch.nn.Identity(), *states, None, blocks=make_blocks(), softcap=30.0)
    with pytest.raises(ConfigError, match="sliding window is 4"):
        attend(torch.nn.Identity(), *states, None, blocks=make_blocks(), sliding_window=4)
    attend(torch.nn.Identity(), *states, None, blocks=make_blocks(), sliding_window=5)
