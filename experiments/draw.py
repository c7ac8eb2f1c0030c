"""Draw the base policy's pool into shards, in constant memory: `python experiments/draw.py engine=ray num_candidates=1024`.

The keys are those of `run.py`, which then finds the pool drawn. What is there is not drawn again; who draws does not matter.
"""

# isort: off
from suite.runtime.command import command, job  # first: the package says in one line what is not installed

# isort: on
import hydra
from omegaconf import DictConfig

from suite.comparison.setup import pool_maker, prepare
from suite.config.registry import checked_config, register
from suite.pools.streaming import stream


@hydra.main(config_path="../conf", config_name="config", version_base="1.3")
@job
def main(composed: DictConfig) -> None:
    """Resolve, validate, draw, say what it took."""
    config = checked_config(composed)
    comparison = prepare(config)
    drawn = stream(pool_maker(comparison), comparison.policy, config.num_candidates, config.seed)
    print(f"engine       {config.engine.name}; shards in {config.engine.shards or config.cache + '/pools'}")
    print(drawn.told())


if __name__ == "__main__":
    register()
    command(main)
