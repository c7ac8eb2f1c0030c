"""Objective and share of the optimum of every training of a study, and of a method over its trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from suite.analysis.objective import Gained, Yardstick, best_of_n_rows, gained, optimum_rows, price_of
from suite.metrics.evaluation import Study
from suite.metrics.rows import Row
from suite.metrics.vocabulary import RAO_BLACKWELL
from suite.studies.store import Stored, Trained


def yardstick_of(study: Study, stored: Stored) -> Yardstick | None:
    """The optimum as far as a study's pools know it; None in folders of earlier versions, which have no objective."""
    if stored.schema < 2:
        return None
    prices = [price for trained in stored.trained if (price := price_of(trained.method, trained.kl_coef)) is not None]
    return Yardstick.of(study, prices, None if stored.optimum is None else stored.optimum.scores)


def gained_over_seeds(yardstick: Yardstick, groups: Mapping[str, Sequence[Trained]]) -> dict[str, Gained]:
    """Label -> what its trainings gain."""
    return {label: _gained(yardstick, group) for label, group in groups.items()}


def objective_rows(
    yardstick: Yardstick, groups: Mapping[str, Sequence[Trained]], found: Mapping[str, Gained]
) -> Iterator[Row]:
    """The optimum, best-of-n, and every training with intervals over prompts, then over the seeds of its setting."""
    yield from optimum_rows(yardstick, None)
    yield from best_of_n_rows(yardstick, None)
    for label, group in groups.items():
        for trained in group:
            alone = _gained(yardstick, [trained], found[label].beta)
            yield from alone.rows(trained.method, trained.seed, trained.last, trained.setting)
        first = group[0]
        yield from found[label].rows(first.method, None, first.last, first.setting)


def _gained(yardstick: Yardstick, group: Sequence[Trained], beta: float | None = None) -> Gained:
    reward, kl = (np.stack([each.final.scores[name].mean(1) for each in group]) for name in ("proxy", RAO_BLACKWELL))
    first = group[0]
    return gained(yardstick, reward, kl, price_of(first.method, first.kl_coef) if beta is None else beta)
