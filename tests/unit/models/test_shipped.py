"""What `model.path` means, and what ships with the package."""

import json
from pathlib import Path

import pytest

from ring_async.errors import ConfigError
from ring_async.models import resolve_model_path


def test_the_tiny_model_ships_small_and_whole() -> None:
    folder = resolve_model_path("builtin:tiny")
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["dtype"], config["tie_word_embeddings"]) == ("llama", "bfloat16", True)


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model_path(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("path", "words"), [("builtin:huge", "there is builtin:tiny"), ("/no/such/folder", "holds no config.json")]
)
def test_anything_else_is_a_clear_error(path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve_model_path(path)
