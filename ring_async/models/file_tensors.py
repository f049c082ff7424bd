"""From the parameters that transformers holds in memory to the tensors of its files, and back.

Owns: the experts of a layer, which transformers 5 holds as two tensors (`gate_up_proj` `[E, 2f, d]`, `down_proj`
`[E, d, f]`) and keeps in files as three matrices for each expert. Every other parameter is a tensor of the same name.
Does not own reading, writing or sharding.

Invariant: the file tensors of a parameter are views that cover it exactly once, so that either side makes the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_GATE_UP, _DOWN = ".experts.gate_up_proj", ".experts.down_proj"


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor of a file: which part of a parameter it is.

    Attributes:
        name: in the file.
        shape: likewise.
        expert: index into the parameter's first dimension; None: the whole parameter.
        start, end: rows of that expert's matrix.
    """

    name: str
    shape: tuple[int, ...]
    expert: int | None = None
    start: int = 0
    end: int | None = None

    def of(self, parameter: Tensor) -> Tensor:
        """The view of a parameter that this tensor is."""
        return parameter if self.expert is None else parameter[self.expert][self.start : self.end]


def file_tensors(name: str, shape: tuple[int, ...]) -> tuple[FileTensor, ...]:
    """The file tensors of one parameter, in order."""
    if name.endswith(_GATE_UP):
        layer = name.removesuffix("gate_up_proj")
        width, hidden = shape[1] // 2, shape[2]
        return tuple(
            FileTensor(f"{layer}{expert}.{part}.weight", (width, hidden), expert, start, start + width)
            for expert in range(shape[0])
            for part, start in (("gate_proj", 0), ("up_proj", width))
        )
    if name.endswith(_DOWN):
        layer = name.removesuffix("down_proj")
        return tuple(FileTensor(f"{layer}{expert}.down_proj.weight", shape[1:], expert) for expert in range(shape[0]))
    return (FileTensor(name, shape),)
