"""The trainings of a study, one after the other in this process or several at a time in processes of their own.

What a training gives depends on its configuration alone, not on who runs it; checkpoints and pools are cached as ever.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace

from suite.baselines.interface import train
from suite.comparison.changed_weights import changed_pools
from suite.comparison.compare import checkpoint_pools
from suite.comparison.setup import Comparison, pool_maker, prepare, training_task
from suite.config.run import RunConfig
from suite.runtime.paths import located
from suite.studies.store import Trained

#: A setting, as in the rows, and the run that belongs to it.
Run = tuple[str, RunConfig]
#: What a worker has loaded; empty before its first training.
_loaded: list[Comparison] = []


@contextlib.contextmanager
def trainings(comparison: Comparison, runs: Sequence[Run], workers: int) -> Iterator[Iterator[Trained]]:
    """The trainings as they are finished; with several workers they begin at once, while the caller does other work.

    Args:
        comparison: prepared for the first run.
        runs: they differ in baseline and seed alone.
        workers: how many at a time.
    """
    if workers == 1:
        yield (_trained(comparison, setting, config) for setting, config in runs)
        return
    first = comparison.config
    with ProcessPoolExecutor(max(min(workers, len(runs)), 1), multiprocessing.get_context("spawn")) as executor:
        futures = [executor.submit(_in_worker, first, setting, config) for setting, config in runs]

        try:
            yield (future.result() for future in as_completed(futures))
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _in_worker(first: RunConfig, setting: str, config: RunConfig) -> Trained:
    if not _loaded:
        _loaded.append(prepare(first))
    return _trained(_loaded[0], setting, config)


def _trained(prepared: Comparison, setting: str, config: RunConfig) -> Trained:
    comparison = replace(prepared, config=config, seconds={})
    with comparison.timed(f"{config.baseline.name} training") as spent:
        training = train(training_task(comparison, located(config.cache)))
        spent(training.seconds)
    maker = pool_maker(comparison)
    pools = {step: pool for step, _, pool in checkpoint_pools(comparison, maker, training)}
    changed = {(method, step): pool for method, step, pool in changed_pools(comparison, maker, training)}
    cost = training.tokens, training.flops, training.seconds, training.reward_tokens
    kl_coef = getattr(config.baseline, "kl_coef", None)
    made = config.baseline.name, setting, config.seed, pools
    return Trained(*made, *cost, kl_coef, training.log, comparison.seconds, changed)
