"""Pools on Ray Data, on two cores of this machine: the bits of one process, resumed by either, through the death of actors."""

import copy
import dataclasses
import os
import signal
import socket
import warnings

import numpy as np
import pytest
import torch

from suite.config.engine import EngineConfig, StageConfig
from suite.config.run import SamplingConfig
from suite.pools import maker as pools
from suite.pools import recipe
from suite.pools.maker import PoolMaker
from suite.pools.recipe import Recipe, Unit
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY

ray = pytest.importorskip("ray", reason='needs pip install -e ".[scale]"')
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Ray warns of its own defaults
    import ray.data

from suite.pools.ray_cluster import cluster  # noqa: E402
from suite.pools.ray_engine import RayEngine, portable, row_of, unit_of  # noqa: E402

CONFIG = EngineConfig(name="ray", generation=StageConfig(actors=2, cpus=0.5), scoring=StageConfig(actors=1, cpus=0.5))
ONE_ACTOR = dataclasses.replace(CONFIG, generation=StageConfig(actors=1, cpus=0.5))
COLUMNS = ("lengths", "logprobs", "raw_logprobs", "ref_logprobs", "texts")


@pytest.fixture(scope="module")
def two_cores():
    """One Ray for all tests here: actors start in seconds, Ray itself does too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "experiments")]))
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
        yield
        ray.shutdown()


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """As the actors have; blocks of 3 prompts and at most 4 candidates."""
    monkeypatch.setattr(pools, "PROMPT_BLOCK", 3)
    monkeypatch.setattr(pools, "MOST_CANDIDATES", 4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make(tmp_path, policy, judges, prompts):
    """make(folder, **changes) -> a maker of pools of 7 prompts and 6 tokens that keeps its shards in that folder."""

    def maker(folder, **changes):
        settings = {"base": policy, "judges": judges, "sampling": SamplingConfig(max_new_tokens=6), "prompts": prompts[:7]}
        return PoolMaker(**{"cache": tmp_path / folder, **settings, **changes})

    return maker


@pytest.fixture
def tuned(policy):
    """A policy a little away from the base, whose KL is measured too."""
    model = copy.deepcopy(policy.model)
    with torch.no_grad():
        model.transformer.ln_f.bias.add_(torch.linspace(-0.5, 0.5, 32))
    return dataclasses.replace(policy, name="tuned", model=model, digest="tuned")


def assert_same(one, two):
    for name in COLUMNS:
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    inside = np.arange(one.token_ids.shape[2]) < one.lengths[..., None]
    width = min(one.token_ids.shape[2], two.token_ids.shape[2])
    assert np.array_equal(np.where(inside, one.token_ids, 0)[..., :width],
                          np.where(inside[..., :width], two.token_ids[..., :width], 0))  # fmt: skip
    assert set(one.scores) == set(two.scores)
    for name in one.scores:
        assert np.array_equal(one.scores[name], two.scores[name]), name


def names(folder):
    return sorted(path.relative_to(folder) for path in folder.glob("pools/*/*"))


def test_bit_equal_to_a_single_process_and_resumed_by_either(make, tuned, tmp_path, two_cores, monkeypatch):
    alone = make("alone").pool(tuned, 6, seed=3)
    assert {"proxy", "gold", "proxy_tokens", "kl_monte_carlo", "kl_rao_blackwell"} == set(alone.scores)
    # One process starts; Ray goes on from its shards; one process reads what Ray wrote.
    make("shared").pool(tuned, 4, seed=3)
    on_ray = make("shared", engine=RayEngine(CONFIG))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*.parquet")}
    assert len(before) == 3
    assert len(on_ray.missing(tuned, 6, seed=3)) == 3
    assert_same(on_ray.pool(tuned, 6, seed=3), alone)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert names(tmp_path / "shared") == names(tmp_path / "alone")

    def refuse(*_, **__):
        raise AssertionError("something was drawn")

    monkeypatch.setattr(recipe, "generate_candidates", refuse)
    monkeypatch.setattr(RayEngine, "fill", refuse)
    assert_same(make("shared").pool(tuned, 6, seed=3), alone)
    assert_same(on_ray.pool(tuned, 6, seed=3), alone)


def test_actors_that_die_are_survived(make, policy, judges, tmp_path, two_cores):
    alone = make("alone").pool(policy, 2, seed=0)
    deaths = tmp_path / "deaths"
    deaths.mkdir()

    def dying(name, when):
        """Kills the process it runs in, as the kernel kills one that needs too much memory; once."""
        calls = []

        def call(*_):
            calls.append(name)
            if len(calls) == when and not (deaths / name).exists():
                (deaths / name).write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)

        return call

    model = copy.deepcopy(policy.model)
    model.register_forward_pre_hook(dying("drawing", when=9))  # in the middle of its second shard
    mortal = dataclasses.replace(policy, model=model)
    gold, kill = judges["gold"], dying("scoring", when=2)

    class Mortal:
        """Gold that dies after the proxy has scored: the worst moment before a shard is kept."""

        label, model = gold.reward.label, gold.reward.model

        def __call__(self, texts):
            kill()
            return gold.reward(texts)

    everyone = {**judges, "gold": dataclasses.replace(gold, reward=Mortal())}
    maker = make("ray", base=mortal, judges=everyone, engine=RayEngine(ONE_ACTOR))
    pool = maker.pool(mortal, 2, seed=0)
    dead = {path.name: int(path.read_text()) for path in deaths.iterdir()}
    assert set(dead) == {"drawing", "scoring"}
    assert os.getpid() not in dead.values()
    assert_same(pool, alone)
    assert names(tmp_path / "ray") == names(tmp_path / "alone")


def test_what_the_user_can_mend_comes_back_as_itself(make, policy, monkeypatch, two_cores):
    @ray.remote
    def fails():
        raise UserError("engine.shards=s3://bucket cannot be used (no space); check the bucket")

    class Failing:
        """A pipeline whose actor cannot keep its shard."""

        def iter_batches(self, batch_size):
            return [ray.get(fails.remote())]

    monkeypatch.setattr(RayEngine, "pipeline", lambda *_: Failing())
    with pytest.raises(UserError, match=r"^engine.shards=s3://bucket cannot be used"):
        make("ray", engine=RayEngine(ONE_ACTOR)).pool(policy, 2, seed=0)
    assert ray.is_initialized()  # a connection that was there is left open


def test_more_than_there_is(make, policy, two_cores):
    config = dataclasses.replace(CONFIG, generation=StageConfig(actors=3, cpus=1.0))
    with pytest.raises(UserError, match=r"ask for 3\.5 CPUs \(actors x cpus\), the Ray cluster has 2: lower them"):
        make("ray", engine=RayEngine(config)).pool(policy, 2, seed=0)


def test_nothing_missing_needs_no_ray(make, policy, monkeypatch):
    make("shared").pool(policy, 2, seed=0)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    monkeypatch.setattr(ray, "put", lambda *_, **__: pytest.fail("Ray was used"))
    assert make("shared", engine=RayEngine(CONFIG)).pool(policy, 2, seed=0).num_prompts == 7


@pytest.mark.parametrize(("address", "told"), [("closed", "no Ray cluster answers there"), ("somewhere", "must be HOST:PORT")])
def test_no_cluster_there(address, told, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was asked"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}" if address == "closed" else address
    with (
        pytest.raises(UserError, match=rf"^engine.address={place}.*{told}"),
        cluster(dataclasses.replace(CONFIG, address=place)),
    ):
        pass


def test_units_travel_as_text():
    unit = Unit("key", [[1, 2], [3]], range(64, 66), range(256, 512))
    assert unit_of(row_of(unit)) == unit
    assert isinstance(row_of(unit), str)


def test_where_models_run(policy, judges):
    gpu = StageConfig(gpus=0.5)
    devices = [RayEngine(EngineConfig(name="ray", generation=g, scoring=s)).device
               for g, s in ((StageConfig(), StageConfig()), (gpu, gpu), (gpu, StageConfig()))]  # fmt: skip
    assert devices == ["cpu", "cuda", "cuda/cpu"]
    recipe = Recipe(policy, policy, judges, SamplingConfig(), 0, "cpu")
    assert portable(recipe) is recipe
    # The device is in the key, the engine only where draws depend on it.
    keys = {dataclasses.replace(recipe, **change).key([[1]], 0) for change in ({}, {"device": "cuda"}, {"engine": "vllm"})}
    assert len(keys) == 3
