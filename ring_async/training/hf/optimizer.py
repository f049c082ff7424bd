"""AdamW at a constant learning rate after a linear warm-up, and its state on disk.

Owns: parameter groups, the schedule, clipping, and the tensors of `optimizer*.safetensors`. Does not own the files of
the weights (`hf.saving`).
Invariant: a restored optimizer takes the step that the saved one would have taken, bit for bit; learning rate, betas
and decay are those configured now, never those saved.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ring_async.config.learning import LearnerSection
from ring_async.errors import StorageError
from ring_async.training.hf.slices import first_row, local, sliced_like, whole
from ring_async.training.hf.tensor_files import TensorFiles

STEM = "optimizer"
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
        """Forget the gradients. A GPU keeps their memory: taken anew each step, it would lie among activations."""
        is_cuda = next(iter(self._named.values())).is_cuda
        self._adamw.zero_grad(set_to_none=not is_cuda)

    def clip(self) -> Tensor:
        """Scale the gradients to a norm of at most `max_grad_norm`; returns the norm before. Scalar."""
        return whole(torch.nn.utils.clip_grad_norm_(self._named.values(), self._max_grad_norm))

    def step(self) -> float:
        """Take a step; returns the learning rate it was taken at."""
        learning_rate = self.next_learning_rate()
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self.num_steps += 1
        return learning_rate

    def state(self) -> dict[str, Tensor]:
        """The moments, `exp_avg/NAME` and `exp_avg_sq/NAME`, whole or sliced as their parameters are, and the count."""
        tensors = {"num_steps": torch.tensor(self.num_steps)}
        for name, parameter in self._named.items():
            if state := self._adamw.state.get(parameter):
                tensors |= {f"{moment}/{name}": state[moment] for moment in _MOMENTS}
        return tensors

    def restore(self, folder: Path) -> None:
        """Read this rank's slices of a state, however many ranks wrote it.

        Raises:
            StorageError: it is of another model.
        """
        with TensorFiles(folder, STEM) as files:
            self._check(folder, files)
            self.num_steps = int(files.read("num_steps"))
            self._adamw.state.clear()
            for name, parameter in self._named.items():
                if f"{_MOMENTS[0]}/{name}" in files.names:
                    self._adamw.state[parameter] = {
                        # On the CPU unless fused, as AdamW itself would make it; a count of its own for each.
                        "step": torch.tensor(float(self.num_steps), device=parameter.device),
                        **{moment: _read_like(files, f"{moment}/{name}", parameter) for moment in _MOMENTS},
                    }

    def _check(self, folder: Path, files: TensorFiles) -> None:
        unknown = files.names - {"num_steps"}
        for name, parameter in self._named.items():
            moments = {f"{moment}/{name}" for moment in _MOMENTS}
            here = moments & files.names
            if here and (here != moments or any(files.shape(one) != tuple(parameter.shape) for one in moments)):
                raise StorageError(
                    f"{folder / STEM}: the moments of {name} do not fit a model of {tuple(parameter.shape)}"
                )
            unknown -= moments
        if "num_steps" not in files.names or unknown:
            raise StorageError(
                f"{folder / STEM}: moments of tensors this model lacks: {', '.join(sorted(unknown)[:3])}"
            )


def _read_like(files: TensorFiles, name: str, parameter: Tensor) -> Tensor:
    """The part of a tensor that this rank holds of its parameter, held in the same way."""
    first, own = first_row(parameter), local(parameter)
    read = files.read(name, first, first + own.shape[0]).to(own.device, own.dtype)
    return sliced_like(parameter, read.clone())
