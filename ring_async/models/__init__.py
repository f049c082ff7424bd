"""Models that ship with the package, and where a model's files lie.

Owns: the meaning of `model.path` in a configuration. Does not own loading. Imports neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path

from ring_async.errors import ConfigError

_BUILTIN = "builtin:"
_SHIPPED = {"tiny": Path(__file__).parent / "tiny"}


def resolve_model_path(path: str) -> Path:
    """The Hugging Face directory that `model.path` names: `builtin:tiny`, or a folder on disk.

    Raises:
        ConfigError: no such builtin model, or the folder holds no `config.json`.
    """
    if path.startswith(_BUILTIN):
        name = path.removeprefix(_BUILTIN)
        if name not in _SHIPPED:
            shipped = ", ".join(_BUILTIN + known for known in sorted(_SHIPPED))
            raise ConfigError(f"model.path: no model {path!r} ships with the package; there is {shipped}")
        folder = _SHIPPED[name]
        remedy = "write it with `make tiny-model`"
    else:
        folder = Path(path).expanduser().absolute()
        remedy = "give a Hugging Face directory (config.json, safetensors, tokenizer)"
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model.path: {path}: {folder} holds no config.json; {remedy}")
    return folder
