"""AdamW at a constant learning rate after a linear warm-up, and its state on disk.

Owns: parameter groups, the schedule, clipping, and `optimizer.safetensors`. Does not own the file of the weights
(`hf.engine`).
Invariant: a restored optimizer takes the step that the saved one would have taken, bit for bit; learning rate, betas
and decay are those configured now, never those saved.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ring_async.config.learning import LearnerSection
from ring_async.errors import StorageError

FILE = "optimizer.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizer:
    """AdamW over named parameters. Matrices decay, vectors (norms, biases) do not."""

    def __init__(self, parameters: Iterable[tuple[str, torch.nn.Parameter]], section: LearnerSection) -> None:
        self._named = dict(parameters)
        self.learning_rate = section.learning_rate
        self._warmup_steps = section.warmup_steps
        self._max_grad_norm = section.max_grad_norm
        self.num_steps = 0
        matrices = [parameter for parameter in self._named.values() if parameter.dim() >= 2]
        vectors = [parameter for parameter in self._named.values() if parameter.dim() < 2]
        self._adamw = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": section.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=section.learning_rate,
            betas=section.adam_betas,
            eps=section.adam_eps,
            fused=True,
        )

    def next_learning_rate(self) -> float:
        """Learning rate of the next step: it rises linearly over `warmup_steps`, then stays."""
        return self.learning_rate * min(1.0, (self.num_steps + 1) / max(1, self._warmup_steps))

    def zero_grad(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    def clip(self) -> Tensor:
        """Scale the gradients to a norm of at most `max_grad_norm`; returns the norm before. Scalar."""
        return torch.nn.utils.clip_grad_norm_(self._named.values(), self._max_grad_norm)

    def step(self) -> float:
        """Take a step; returns the learning rate it was taken at."""
        learning_rate = self.next_learning_rate()
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self.num_steps += 1
        return learning_rate

    def save(self, folder: Path) -> None:
        """Write the moments and the step count."""
        tensors = {"num_steps": torch.tensor(self.num_steps)}
        for name, parameter in self._named.items():
            state = self._adamw.state.get(parameter)
            if state:
                tensors |= {f"{moment}/{name}": state[moment].contiguous().cpu() for moment in _MOMENTS}
        save_file(tensors, folder / FILE)

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            StorageError: it is of another model.
        """
        tensors = load_file(folder / FILE)
        self.num_steps = int(tensors.pop("num_steps"))
        self._adamw.state.clear()
        for name, parameter in self._named.items():
            found = {moment: tensors.pop(f"{moment}/{name}", None) for moment in _MOMENTS}
            if all(moment is None for moment in found.values()):
                continue
            if any(moment is None or moment.shape != parameter.shape for moment in found.values()):
                raise StorageError(
                    f"{folder / FILE}: the moments of {name} do not fit a model of {tuple(parameter.shape)}"
                )
            self._adamw.state[parameter] = {
                "step": torch.tensor(float(self.num_steps), device=parameter.device),
                **{
                    key: value.to(parameter.device, parameter.dtype)
                    for key, value in found.items()
                    if value is not None
                },
            }
        if tensors:
            raise StorageError(
                f"{folder / FILE}: moments of tensors this model lacks: {', '.join(sorted(tensors)[:3])}"
            )
