"""Every configuration key has a meaning, read from the source, with the type and default that the dataclass has."""

from dataclasses import dataclass, field

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from suite.config.meanings import Key, key_meanings
from suite.config.registry import register


@dataclass
class Inner:
    """A group."""

    size: int = 3
    """How
    large."""


@dataclass
class Outer:
    """Keys of a command."""

    name: str = MISSING
    """Of the thing."""
    flag: bool = False
    one: int = 1
    """Not `true`."""
    values: list[float] = field(default_factory=lambda: [1.0, 2.5])
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None


@dataclass
class Derived(Outer):
    """The same, told otherwise."""

    one: int = 2
    """Of the derived class."""


def test_types_defaults_and_meanings():
    assert key_meanings(Outer) == {
        "name": Key("str", "", "Of the thing."),
        "flag": Key("bool", "false", ""),
        "one": Key("int", "1", "Not `true`."),
        "values": Key("list[float]", "[1.0, 2.5]", ""),
        "inner.size": Key("int", "3", "How large."),
        "maybe.size": Key("int", "3", "How large."),
    }


def test_a_subclass_has_the_last_word():
    found = key_meanings(Derived, "group.")
    assert found["group.one"] == Key("int", "2", "Of the derived class.")
    assert found["group.name"].meaning == "Of the thing."


def schemas():
    register()
    repo = ConfigStore.instance().repo
    return {name: OmegaConf.get_type(node.node) for name, node in repo.items() if name.endswith("_schema.yaml")}


@pytest.mark.parametrize(("name", "kind"), schemas().items())
def test_every_key_has_a_meaning(name, kind):
    assert [key for key, told in key_meanings(kind).items() if not told.meaning] == []
