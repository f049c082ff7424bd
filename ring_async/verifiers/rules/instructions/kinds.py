"""All kinds of instruction, by identifier.

Owns: the lists. Does not own: any kind.
"""

from __future__ import annotations

from collections.abc import Mapping

from ring_async.verifiers.rules.instructions import (
    ifbench_atlas,
    ifbench_grammar,
    ifbench_layout,
    ifbench_tasks,
    ifbench_words,
    ifeval_layout,
    ifeval_words,
)
from ring_async.verifiers.rules.instructions.kind import Kind

IFEVAL_KINDS: Mapping[str, Kind] = {**ifeval_words.KINDS, **ifeval_layout.KINDS}
IFBENCH_KINDS: Mapping[str, Kind] = {
    **ifbench_words.KINDS,
    **ifbench_layout.KINDS,
    **ifbench_tasks.KINDS,
    **ifbench_grammar.KINDS,
    **ifbench_atlas.KINDS,
}
KINDS: Mapping[str, Kind] = {**IFEVAL_KINDS, **IFBENCH_KINDS}
