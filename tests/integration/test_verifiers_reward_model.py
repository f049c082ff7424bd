"""A tiny reward model: trained here on preference pairs, saved, loaded and asked."""

import asyncio
import math
import random

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from ring_async.config.schema import VerifierSection
from ring_async.errors import ConfigError, DivergedError
from ring_async.types import Prompt
from ring_async.verifiers.base import Response
from ring_async.verifiers.combine.length_bias import LengthBias
from ring_async.verifiers.models.bradley_terry import PreferencePair, train_reward_model
from ring_async.verifiers.models.reward_model import conversation_ids
from ring_async.verifiers.registry import make_verifier
from ring_async.verifiers.scoring import score_group

GOOD, BAD = ["kind", "clear", "right"], ["rude", "vague", "wrong"]
FILLER = ["the", "answer", "is", "and", "so", "it", "was"]


def tiny_tokenizer():
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[EOS]", *GOOD, *BAD, *FILLER, "why"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]")


def tiny_model(tokenizer, num_labels=1):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_labels=num_labels,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForSequenceClassification(config)


def text(rng, words):
    filler = rng.choices(FILLER, k=rng.randint(2, 8))
    filler.insert(rng.randrange(len(filler)), rng.choice(words))
    return " ".join(filler)


def make_pairs(num, seed):
    rng = random.Random(seed)
    return [PreferencePair("why", text(rng, GOOD), text(rng, BAD)) for _ in range(num)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward_model")
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    report = train_reward_model(
        model, tokenizer, make_pairs(160, 1), num_epochs=4, learning_rate=1e-2, max_tokens=64, save_to=folder
    )
    return folder, report


def make(folder, **options):
    return make_verifier(
        "rm", VerifierSection(use="reward_model", options={"path": str(folder), "device": "cpu", **options})
    )


def rewards(verifier, *texts):
    responses = [Response(text, num_tokens=len(text.split())) for text in texts]
    return [v.reward for v in asyncio.run(score_group(verifier, Prompt("p", "s", "why"), responses, 10.0))]


def test_training_learns_the_preference(trained):
    _, report = trained
    assert report.losses[0] > report.losses[-1]
    assert report.losses[-1] < 0.2
    assert report.accuracy > 0.95


def test_the_saved_model_ranks_pairs_it_never_saw(trained):
    verifier = make(trained[0])
    right = 0
    for pair in make_pairs(40, 2):
        chosen, rejected = rewards(verifier, pair.chosen, pair.rejected)
        right += chosen > rejected
    verifier.close()
    assert right >= 38


def test_batching_and_order_change_nothing(trained):
    texts = [pair.chosen for pair in make_pairs(7, 3)]
    one, many = make(trained[0], batch_size=1), make(trained[0], batch_size=3)
    assert rewards(one, *texts) == pytest.approx(rewards(many, *texts), abs=1e-5)
    assert rewards(many, *texts[::-1]) == pytest.approx(rewards(many, *texts)[::-1], abs=1e-5)


def test_squashing(trained):
    texts = [pair.chosen for pair in make_pairs(3, 4)]
    raw = rewards(make(trained[0]), *texts)
    squashed = rewards(make(trained[0], squash="sigmoid", shift=0.5, scale=2.0), *texts)
    assert squashed == pytest.approx([1 / (1 + math.exp(-(value - 0.5) / 2)) for value in raw], rel=1e-5)


def test_a_conversation_that_is_too_long_keeps_the_response_s_end():
    tokenizer = tiny_tokenizer()
    whole = conversation_ids(tokenizer, "why why why", "it was right", 100)
    assert conversation_ids(tokenizer, "why why why", "it was right", 4) == whole[-4:]
    assert whole[-1] == tokenizer.eos_token_id
    assert conversation_ids(tokenizer, "", "", 4) == [tokenizer.eos_token_id]


def test_a_chat_template_is_used_where_there_is_one():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} and {% endfor %}"
    assert tokenizer.decode(conversation_ids(tokenizer, "why", "right", 100)) == "why and right and"


def test_length_bias_of_a_model_is_measured_and_corrected(trained):
    """Pairs in which the longer response was preferred teach the model length; the correction takes it out again."""
    folder = trained[0].parent / "long"
    rng = random.Random(5)
    pairs = [
        PreferencePair("why", " ".join(rng.choices(FILLER, k=12)), " ".join(rng.choices(FILLER, k=3)))
        for _ in range(80)
    ]
    tokenizer = tiny_tokenizer()
    train_reward_model(
        tiny_model(tokenizer), tokenizer, pairs, num_epochs=4, learning_rate=1e-2, max_tokens=64, save_to=folder
    )
    biased = make(folder)
    measured, left = LengthBias(), LengthBias()
    texts = [[" ".join(rng.choices(FILLER, k=length)) for length in (3, 6, 9, 12)] for _ in range(10)]
    for group in texts:
        measured.add_group([len(text.split()) for text in group], rewards(biased, *group))
    assert measured.correlation > 0.5
    options = {"of": {"use": "reward_model", "options": {"path": str(folder)}}, "slope": measured.slope}
    corrected = make_verifier("corrected", VerifierSection(use="length_corrected", options=options))
    for group in texts:
        left.add_group([len(text.split()) for text in group], rewards(corrected, *group))
    assert abs(left.correlation) < 0.05


def test_divergence_is_an_error():
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    with torch.no_grad():
        model.score.weight.fill_(math.nan)
    with pytest.raises(DivergedError, match="reward model: loss nan in epoch 0"):
        train_reward_model(model, tokenizer, make_pairs(4, 6))


def test_mistakes_are_said(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        make(tmp_path)
    with pytest.raises(ConfigError, match="squash: 'flat'"):
        make(trained[0], squash="flat")
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer, num_labels=2).save_pretrained(tmp_path / "two")
    tokenizer.save_pretrained(tmp_path / "two")
    with pytest.raises(ConfigError, match="2 labels; a reward model has one"):
        make(tmp_path / "two")
    with pytest.raises(ValueError, match="there are none to train on"):
        train_reward_model(tiny_model(tokenizer), tokenizer, [])
