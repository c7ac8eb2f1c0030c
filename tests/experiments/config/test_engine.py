"""Keys of `engine` that cannot be: one line each, before anything is loaded."""

import importlib.util

import pytest

from suite.config.engine import EngineConfig
from suite.pools.engines import check_engine, chosen_engine
from suite.runtime.errors import UserError


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["engine.name=spark"], r"^engine\.name=spark is not allowed: must be local, ray or vllm$"),
        (["engine.address=head:6379"], r"^engine\.address=head:6379 .*null with engine=local"),
        (["engine.scoring.actors=2"], r"^engine\.scoring=.*left alone with engine=local"),
        (["engine=ray", "engine.generation.actors=0"], r"^engine\.generation\.actors=0 .*at least 1"),
        (["engine=ray", "engine.generation.cpus=0"], r"^engine\.generation\.cpus=0\.0 .*greater than 0"),
        (["engine=ray", "engine.scoring.gpus=1.5"], r"^engine\.scoring\.gpus=1\.5 .*a fraction of 1, or a whole number"),
        (["engine=vllm", "engine.generation.gpus=0.5"], r"^engine\.generation\.gpus=0\.5 .*at least 1 with engine=vllm"),
        (["engine=vllm", "sampling.top_k=5"], r"^sampling\.top_k, sampling\.top_p=\(5, 1\.0\) .*0 and 1\.0"),
    ],
)
def test_what_cannot_be(configure, overrides, told):
    with pytest.raises(UserError, match=told):
        configure(*overrides).check()


def test_without_ray(configure, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'^engine=ray needs ray, which is not installed; run: pip install -e "\.\[scale\]"$'):
        check_engine(configure("engine=ray").engine)
    check_engine(configure().engine)


def test_shards_on_a_file_system_that_nobody_knows(configure):
    with pytest.raises(UserError, match=r"^engine\.shards=s4://bucket is not allowed"):
        check_engine(configure("engine.shards=s4://bucket").engine)


def test_this_process_draws_unless_told_otherwise():
    assert chosen_engine(EngineConfig()) is None
