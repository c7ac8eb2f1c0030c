"""Rows of policies that trainings give beside their own (`suite.comparison.changed_weights`): of each, and over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bon.intervals import seeds_mean
from suite.metrics.evaluation import Study, checkpoint_columns, policy_rows, split_intervals
from suite.metrics.rows import Row
from suite.studies.store import Trained


def changed_rows(study: Study, group: Sequence[Trained]) -> Iterator[Row]:
    """Reward, win rate, length and KL of every such policy of a method's trainings, a seed each."""
    last = group[0].last
    for method, step in group[0].changed:
        if not all((method, step) in trained.changed for trained in group):
            continue
        setting = " ".join(filter(None, (group[0].setting, step)))
        columns = [checkpoint_columns(study, trained.changed[method, step]) for trained in group]
        for trained, own in zip(group, columns, strict=True):
            for (metric, kind), interval in study.intervals(own).items():
                yield from policy_rows(interval, method, trained.seed, last, metric, kind, setting)
        if len(group) > 1:
            joined = np.stack([np.concatenate(list(own.values()), axis=1) for own in columns])
            for (metric, kind), interval in split_intervals(seeds_mean(joined), columns[0]).items():
                yield from policy_rows(interval, method, None, last, metric, kind, setting)
