"""Text to tokens and back."""

from types import SimpleNamespace

import numpy as np
import pytest

from ring_async.engines.tokenizer import decode_response, encode_prompt, load_tokenizer, stop_token_ids
from ring_async.models import resolve_model_path


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve_model_path("builtin:tiny"))


def test_a_prompt_is_one_user_turn_with_the_answer_opened(tokenizer) -> None:
    ids = encode_prompt(tokenizer, "State the final answer to the following arithmetic problem: 12 + 7 =")
    assert ids.dtype == np.int32
    assert tokenizer.convert_ids_to_tokens(ids.tolist()) == [
        *("<|begin|>", "State the final answer to the following arithmetic problem: "),
        *("1", "2", " + ", "7", " =", "<|respond|>"),
    ]


def test_without_a_chat_template_the_text_is_taken_as_it_is() -> None:
    plain = SimpleNamespace(chat_template=None, encode=lambda text: [len(text)])
    assert encode_prompt(plain, "abc").tolist() == [3]


@pytest.mark.parametrize("text", ["12+7=19<answer>19</answer>", "Größe\n\t ✓ and an elephant, wanting", ""])
def test_any_text_comes_back_as_it_was(tokenizer, text: str) -> None:
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    assert decode_response(tokenizer, ids) == text
    assert decode_response(tokenizer, np.array(ids, np.int32)) == text


@pytest.mark.parametrize(("more", "wanted"), [(None, {2}), (7, {2, 7}), ([7, 8], {2, 7, 8})])
def test_every_token_that_ends_a_response_is_known(tokenizer, more, wanted: set[int]) -> None:
    assert stop_token_ids(tokenizer, SimpleNamespace(eos_token_id=more)) == wanted
    assert stop_token_ids(SimpleNamespace(eos_token_id=None)) == frozenset()
