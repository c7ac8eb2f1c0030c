"""A pool block by block: what it says of itself against the whole pool; memory that is seen; shards of others."""

import numpy as np
import psutil
import pytest

from bon.estimators import best_of_n_mean
from suite.config.run import SamplingConfig
from suite.pools import maker as pools
from suite.pools.maker import PoolMaker
from suite.pools.recipe import Unit
from suite.pools.shards import LocalShards
from suite.pools.streaming import PeakMemory, stream
from suite.runtime.errors import UserError


@pytest.fixture
def maker(tmp_path, policy, judges, prompts, monkeypatch):
    monkeypatch.setattr(pools, "PROMPT_BLOCK", 3)
    monkeypatch.setattr(pools, "MOST_CANDIDATES", 4)
    return PoolMaker(tmp_path, policy, judges, SamplingConfig(max_new_tokens=6), prompts[:7])


def test_what_it_says(maker, policy, tmp_path):
    drawn = stream(maker, policy, 6, seed=0, progress=False)
    pool = maker.pool(policy, 6, seed=0, progress=False)
    assert (drawn.prompts, drawn.candidates, drawn.tokens) == (7, 42, pool.lengths.sum())
    # Blocks of 3, 3 and 1 prompts, each in 4 and 2 candidates.
    files = list(tmp_path.rglob("*.parquet"))
    assert (drawn.shards, drawn.new_shards) == (6, 6) == (len(files), 6)
    assert drawn.stored_bytes == sum(path.stat().st_size for path in files)
    assert drawn.proxy == pytest.approx(best_of_n_mean(pool.scores["proxy"]).mean(0))
    again = stream(maker, policy, 6, seed=0, progress=False)
    assert (again.shards, again.new_shards) == (6, 0)
    assert again.tokens == drawn.tokens
    for part in ("42 of 7 prompts", "6 of them new", "bytes a candidate", "GB, all processes"):
        assert part in drawn.told()


def test_one_block_at_a_time(maker, policy, monkeypatch):
    """Nothing but the numbers of a block is alive when the next one is read."""
    import gc
    import weakref

    alive = []

    def watched(block):
        gc.collect()
        assert sum(reference() is not None for reference in alive) <= 1
        alive.append(weakref.ref(block))
        return best_of_n_mean(block.scores["proxy"])

    blocks = PoolMaker.blocks

    def seen(self, *arguments):
        for block in blocks(self, *arguments):
            watched(block)
            yield block

    monkeypatch.setattr(PoolMaker, "blocks", seen)
    stream(maker, policy, 4, seed=0, progress=False)
    assert len(alive) == 3


def test_peak_memory_is_seen():
    here = psutil.Process()
    with PeakMemory(interval=0.01) as memory:
        held = np.ones(25_000_000)  # 200 MB
        before = memory.peak
        while memory.peak == before and memory.peak < 2e8:
            held += 1
    assert memory.peak >= 2e8
    assert memory.peak <= 2 * here.memory_info().rss + 2e9


def test_a_shard_of_another_configuration(maker, policy, tmp_path):
    """A folder that was renamed: the message says what differs."""
    mine = maker.missing(policy, 2, seed=0)[0].key
    other = PoolMaker(tmp_path / "other", *[getattr(maker, name) for name in ("base", "judges", "sampling", "prompts")])
    other.pool(policy, 2, seed=1, progress=False)
    theirs = other.missing(policy, 3, seed=1)[0].key
    (tmp_path / "pools").mkdir()
    (tmp_path / "other" / "pools" / theirs).rename(tmp_path / "pools" / mine)
    with pytest.raises(
        UserError, match=r"000002\.parquet is a shard of another configuration \(seed=1, here seed=0\): delete"
    ):
        maker.pool(policy, 2, seed=0, progress=False)


def test_a_shard_of_other_prompts_that_does_not_say_what_made_it(maker, policy):
    first = maker.missing(policy, 2, seed=0)[0]
    recipe = maker._recipe(policy, 0)
    pool = recipe.drawn(Unit(first.key, [[5, 6]], range(1), range(2)))
    LocalShards(maker.cache / "pools").save(first.key, range(2), pool)
    with pytest.raises(UserError, match=r"is a shard of another configuration \(other prompts\)"):
        maker.pool(policy, 2, seed=0, progress=False)
