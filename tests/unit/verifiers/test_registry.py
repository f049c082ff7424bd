import importlib.metadata
import sys
from pathlib import Path

import pytest

import ring_async
from ring_async.config.schema import VerifierSection
from ring_async.errors import ConfigError
from ring_async.verifiers.registry import REGISTERED, load_verifier, make_verifier, registered_names

PLUGIN = """
from ring_async.types import Verdict
from ring_async.verifiers.base import VerifierBase

class Fixed(VerifierBase):
    def __init__(self, reward=1.0):
        if reward > 9: raise ValueError("reward: too high")
        self.reward = reward
    def score(self, prompt, response):
        return Verdict(self.reward)

class NoVerifier:
    pass

class Odd(Fixed):
    isolation = "moon"
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    yield path
    for name in [name for name in sys.modules if name.startswith("ring_async_plugin_")]:
        del sys.modules[name]


def section(use, **options):
    return VerifierSection(use=str(use), options=options)


def test_every_registered_name_points_to_a_file_here():
    for target in REGISTERED.values():
        module, _, name = target.partition(":")
        path = Path(ring_async.__file__).parents[1] / (module.replace(".", "/") + ".py")
        assert f"class {name}(" in path.read_text()


def test_a_class_in_a_file(plugin):
    verifier = make_verifier("mine", section(f"{plugin}:Fixed", reward=0.5))
    assert (verifier.name, verifier.reward) == ("mine", 0.5)


def test_a_class_in_a_module(tmp_path, monkeypatch):
    (tmp_path / "plugin_module.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert make_verifier("mine", section("plugin_module:Fixed")).reward == 1.0


def test_an_entry_point(plugin, tmp_path, monkeypatch):
    point = importlib.metadata.EntryPoint("fixed", f"{plugin}:Fixed", "ring_async.verifiers")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    assert make_verifier("mine", section("fixed")).reward == 1.0
    assert "fixed" in registered_names()


def test_version_follows_code_and_settings_and_nothing_else(plugin):
    use = f"{plugin}:Fixed"
    version = make_verifier("a", section(use)).version
    assert version == make_verifier("b", section(use)).version
    assert version != make_verifier("a", section(use, reward=0.5)).version
    plugin.write_text(PLUGIN + "# changed\n")
    assert version != make_verifier("a", section(use)).version


def test_two_versions_of_a_file_live_side_by_side(plugin):
    old = make_verifier("a", section(f"{plugin}:Fixed"))
    plugin.write_text(PLUGIN.replace("Verdict(self.reward)", "Verdict(-self.reward)"))
    new = make_verifier("a", section(f"{plugin}:Fixed"))
    assert (old.score(None, None).reward, new.score(None, None).reward) == (1.0, -1.0)


@pytest.mark.parametrize(
    ("use", "says"),
    [
        ("nothing", "nothing is registered as 'nothing'"),
        ("no.such.module:Thing", "cannot import no.such.module"),
        ("json:Nothing", "json has no class 'Nothing'"),
        ("json:dumps", "json has no class 'dumps'"),
        ("nowhere.py:Thing", "no file "),
    ],
)
def test_what_cannot_be_loaded_is_said(use, says):
    with pytest.raises(ConfigError, match=f"verifiers.mine.use: {says}"):
        make_verifier("mine", section(use))


def test_a_file_that_fails_on_import_is_said(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"broken.py fails on import: ZeroDivisionError"):
        make_verifier("mine", section(f"{tmp_path / 'broken.py'}:Thing"))


def test_a_class_that_is_no_verifier_is_said(plugin):
    with pytest.raises(ConfigError, match=r"has no method score\(\)"):
        make_verifier("mine", section(f"{plugin}:NoVerifier"))


def test_options_it_does_not_take_are_said(plugin):
    with pytest.raises(ConfigError, match=r"verifiers.mine.options: .*takes \(reward=1.0\).*unexpected"):
        make_verifier("mine", section(f"{plugin}:Fixed", rewrad=1))
    with pytest.raises(ConfigError, match=r"verifiers.mine.options: reward: too high"):
        make_verifier("mine", section(f"{plugin}:Fixed", reward=10))


def test_an_unknown_isolation_is_said(plugin):
    with pytest.raises(ConfigError, match=r"isolation 'moon' is none of thread, process, guarded"):
        make_verifier("mine", section(f"{plugin}:Odd"))


def test_a_guarded_verifier_can_be_built_without_its_processes():
    verifier = load_verifier("logic", section("reasoning_gym"))
    assert verifier.isolation == "guarded"
    assert len(verifier.golden_cases()) == 2
