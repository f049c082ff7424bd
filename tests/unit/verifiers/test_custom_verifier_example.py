import asyncio
from pathlib import Path

from ring_async.config.schema import VerifierSection
from ring_async.verifiers.golden import check_golden_cases
from ring_async.verifiers.registry import make_verifier

EXAMPLE = Path(__file__).parents[3] / "examples" / "custom_verifier.py"


def test_the_example_loads_by_path_and_passes_its_golden_cases():
    verifier = make_verifier("brevity", VerifierSection(use=f"{EXAMPLE}:Brevity", options={"max_words": 3}))
    assert verifier.name == "brevity"
    assert asyncio.run(check_golden_cases(verifier, 5.0)) == []
