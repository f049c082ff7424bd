import math

import pytest
import torch

from ring_async.errors import ConfigError
from ring_async.verifiers.models.bradley_terry import PreferencePair, bradley_terry_loss, read_pairs


def test_loss_by_hand():
    chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    expected = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(2.0))) / 2
    assert bradley_terry_loss(chosen, rejected).item() == pytest.approx(expected, rel=1e-6)
    centered = bradley_terry_loss(chosen, rejected, center=0.1).item()
    assert centered == pytest.approx(expected + 0.1 * (1.0 + 4.0) / 2, rel=1e-6)


def test_gradient_by_hand():
    chosen = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    bradley_terry_loss(chosen, rejected).backward()
    expected = 1 / (1 + math.exp(-1.0))  # σ(rejected − chosen)
    assert chosen.grad.item() == pytest.approx(-expected)
    assert rejected.grad.item() == pytest.approx(expected)


def test_equal_rewards_cost_log_two():
    assert bradley_terry_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(math.log(2))


def test_pairs_are_read_from_json_lines(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c", "by": "me"}\n\n')
    assert read_pairs(path) == [PreferencePair("a", "b", "c")]


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": "a", "chosen": "b"}'])
def test_a_line_that_is_no_pair_is_named(tmp_path, line):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f'{{"prompt": "a", "chosen": "b", "rejected": "c"}}\n{line}\n')
    with pytest.raises(ConfigError, match=r"pairs\.jsonl:2: not an object with prompt, chosen and rejected"):
        read_pairs(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_pairs(tmp_path / "none.jsonl")
