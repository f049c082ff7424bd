"""Words of the command line that say which change is meant."""

from __future__ import annotations

import pytest

from ring_async.cli.changes import _window
from ring_async.errors import ConfigError


def test_a_window_is_bounds_with_or_without_the_number_they_are_of():
    assert _window("math=0.2:0.8") == ("math", {"low": 0.2, "high": 0.8})
    assert _window("sums=num_terms:2:4") == ("sums", {"by": "num_terms", "low": 2.0, "high": 4.0})
    assert _window("math=observed::0.9") == ("math", {"by": "observed", "high": 0.9})
    assert _window("math=3:") == ("math", {"low": 3.0})
    assert _window("math=any") == ("math", None)


@pytest.mark.parametrize("word", ["math", "math=", "math=3", "math=:", "math=a:b", "=1:2", "math=::", "a=b:1:2:3"])
def test_anything_else_is_refused_with_an_example(word: str):
    with pytest.raises(ConfigError, match="write for example"):
        _window(word)
