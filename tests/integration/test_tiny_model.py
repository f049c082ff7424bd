"""The documented way to the tiny model, in small: it trains, repeats itself, and writes what the engine reads."""

from pathlib import Path

import pytest
import torch
import transformers

from ring_async.engines.tokenizer import encode_prompt, load_tokenizer
from ring_async.tiny_model.domains import DOMAINS
from ring_async.tiny_model.model import make_model, save
from ring_async.tiny_model.sft import SftProgress, SftSettings, encode_examples, train


@pytest.fixture(autouse=True)
def _one_thread_and_no_progress_bars():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    yield
    torch.set_num_threads(threads)


def test_examples_are_encoded_as_the_rollouts_encode_prompts() -> None:
    _, tokenizer = make_model(seed=0)
    question = DOMAINS[1].source().prompt(7).text
    ((prompt, response),) = encode_examples(tokenizer, [(question, "7;7<answer>7</answer>")])
    assert prompt == encode_prompt(tokenizer, question).tolist()
    assert tokenizer.decode(response) == "7;7<answer>7</answer><|end|>"


def test_training_lowers_the_loss_and_is_repeatable(tmp_path: Path) -> None:
    def run() -> tuple[list[SftProgress], torch.Tensor]:
        model, tokenizer = make_model(seed=3)
        reports: list[SftProgress] = []
        train(model, tokenizer, DOMAINS, SftSettings(num_tokens=9_000, seed=3), report=reports.append, report_every=2)
        save(model, tokenizer, tmp_path)
        return reports, model.lm_head.weight.detach()

    reports, weights = run()
    again, same_weights = run()
    assert reports[-1].loss < 0.9 * reports[0].loss
    assert reports[-1].trained_tokens >= 9_000
    assert [report.loss for report in reports] == [report.loss for report in again]
    assert torch.equal(weights, same_weights)
    assert "s left" in str(reports[0])
    assert (tmp_path / "model.safetensors").stat().st_size < 5_000_000
    assert len(load_tokenizer(tmp_path)) == weights.shape[0]
