"""The cache keeps what was stored, through growth and moves."""

import torch

from ring_async.engines.embedded.kv_cache import DecodeView, PrefillView, RowCache


def make_cache(num_rows: int = 3) -> RowCache:
    return RowCache(
        num_layers=2, num_rows=num_rows, num_kv_heads=1, head_dim=2, dtype=torch.float32, device=torch.device("cpu")
    )


def test_prefill_then_decode_reads_back_every_position() -> None:
    cache = make_cache()
    prompt = torch.arange(12.0).view(2, 1, 3, 2)
    PrefillView(cache, torch.tensor([2, 0])).update(prompt, -prompt, 1)
    step = torch.full((3, 1, 1, 2), 99.0)
    keys, values = DecodeView(cache, torch.tensor([3, 0, 1]), 4).update(step, -step, 1)
    assert keys.shape == (3, 1, 4, 2)
    assert keys[0, 0].tolist() == [*prompt[1, 0].tolist(), [99.0, 99.0]]
    assert keys[2, 0].tolist() == [prompt[0, 0, 0].tolist(), [99.0, 99.0], prompt[0, 0, 2].tolist(), [0.0, 0.0]]
    assert torch.equal(values, -keys)
    assert not cache.keys[0].any()


def test_growth_and_moves_keep_what_is_stored() -> None:
    cache = make_cache()
    before = cache.num_positions
    content = torch.randn(1, 1, before, 2)
    PrefillView(cache, torch.tensor([1])).update(content, content, 0)
    cache.reserve(before + 1)
    assert cache.num_positions == 2 * before
    cache.move_row(1, 0, before)
    assert torch.equal(cache.keys[0][0, :, :before], content[0])
    assert torch.equal(cache.values[0][1, :, :before], content[0])
    cache.reserve(before)
    assert cache.num_positions == 2 * before
