"""Pools to tidy rows: the only place where numbers are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bon import Candidates
from bon.estimators import best_of_n_mean, win_rates
from bon.estimators.diversity import best_of_n_distinct, self_similarity
from bon.estimators.ranks import ascending, averaged
from bon.estimators.subsets import subset_weights
from bon.intervals import Interval, bootstrap_mean, jackknife
from bon.kl import best_of_n_kl_beirami, best_of_n_kl_bound, best_of_n_kl_levels
from suite.metrics.cost import request_reward_tokens, seconds_per_candidate
from suite.metrics.naming import named
from suite.metrics.registry import COSTS, MEASURES, OBJECTIVES, OPTIMUM, Metric
from suite.metrics.rows import Row
from suite.metrics.vocabulary import BASE_LOGPROB, MONTE_CARLO, RAO_BLACKWELL

Array = NDArray[np.float64]
#: (metric, kind of KL) -> [P, K] a number for each prompt, and each n from 1 to K.
Columns = dict[tuple[str, str | None], Array]
#: Measures of others (`add_metric`): name -> its [P, N] from a pool.
_ADDED: dict[str, Callable[[Candidates], Array]] = {}


def add_metric(name: str, metric: Metric, compute: Callable[[Candidates], Array]) -> None:
    """Measure something else of best-of-n, too, in every comparison of this process.

    Args:
        name: what rows and tracking call it.
        metric: its row in the registry.
        compute: pool -> [P, N] for n from 1 to N; of the selected response, that is `best_of_n_mean(proxy, values)`.

    Raises:
        ValueError: there is a metric of that name.
    """
    if name in {**MEASURES, **COSTS, **OBJECTIVES, **OPTIMUM, **_ADDED}:
        raise ValueError(f"name={name!r}: there is such a metric")
    MEASURES[name] = metric
    _ADDED[name] = compute


@dataclass(frozen=True)
class Study:
    """Basis of all numbers: the base policy's pool that all are compared with, the seed of the bootstrap, and its samples."""

    base: Candidates
    seed: int
    resamples: int

    @property
    def judge(self) -> str:
        """The reward that evaluates: gold, or the proxy where there is no gold."""
        return "gold" if "gold" in self.base.scores else "proxy"

    def rng(self) -> np.random.Generator:
        """The same resampled prompts for every number, so that numbers can be compared."""
        return np.random.default_rng([self.seed, 7])

    def interval(self, values: Array) -> Interval:
        """Mean over prompts [P, ...] with its interval."""
        return bootstrap_mean(values, self.rng(), resamples=self.resamples)

    def intervals(self, columns: Columns) -> dict[tuple[str, str | None], Interval]:
        """The interval of every column, from one set of resampled prompts."""
        return split_intervals(self.interval(np.concatenate(list(columns.values()), axis=1)), columns)


def split_intervals(joined: Interval, columns: Columns) -> dict[tuple[str, str | None], Interval]:
    """Intervals of columns that were put side by side, each its own again."""
    ends = np.cumsum([values.shape[1] for values in columns.values()])[:-1]
    parts = zip(*(np.split(part, ends) for part in joined), strict=True)
    return {key: Interval(*interval) for key, interval in zip(columns, parts, strict=True)}


def curve_rows(study: Study, pool: Candidates, method: str, step: int | None, n: int, flops: Array) -> Iterator[Row]:
    """Every metric of best-of-n for every n from 1 to N, from one pool.

    `method` names n = 1; larger n are "best_of_n" of the base policy and "<method>+best_of_n" of a tuned one. Distinct n-grams
    cost more than the others: they are there for powers of two, for N and for the run's own `n`. Self-similarity ends at
    N / 2. `flops` [P, N] is what a request costs.
    """
    columns = curve_columns(study, pool, method == "base", flops)
    intervals = study.intervals(columns)
    for metric, kind in columns:
        yield from policy_rows(intervals[metric, kind], method, study.seed, step, metric, kind)
    for k, seconds in enumerate(request_seconds(pool), 1):
        yield Row(named(method, k), study.seed, step, k, "seconds_per_request", seconds)
    few = distinct_ns(pool, n)
    yield from distinct_rows(study, pool, few, [named(method, k) for k in few], step)


def curve_columns(study: Study, pool: Candidates, is_base: bool, flops: Array) -> Columns:
    """Return what `curve_rows` averages over prompts, for n from 1 on. Perplexity is its logarithm, in nats a token.

    It is the base policy's own, at temperature 1, however responses are drawn.
    """
    proxy = pool.scores["proxy"]
    ns = range(1, pool.num_candidates + 1)
    read = request_reward_tokens(pool)
    drawn_from = pool.logprobs if pool.ref_logprobs is None else pool.ref_logprobs
    perplexity = -pool.scores.get(BASE_LOGPROB, drawn_from) / pool.lengths
    columns: Columns = {
        ("proxy", None): best_of_n_mean(proxy),
        **({("gold", None): best_of_n_mean(proxy, pool.scores["gold"])} if study.judge == "gold" else {}),
        ("win_rate", None): _win_rates(study, pool, ns),
        ("length", None): best_of_n_mean(proxy, pool.lengths),
        ("perplexity", None): best_of_n_mean(proxy, perplexity),
        **{("kl", kind): values for kind, values in kl_columns(pool, is_base).items()},
        ("tokens_per_request", None): np.asarray(ns) * pool.lengths.mean(1, keepdims=True),
        **({("reward_tokens_per_request", None): read} if read is not None else {}),
        ("flops_per_request", None): flops,
        **{(name, None): compute(pool) for name, compute in _ADDED.items()},
    }
    similar = self_similarity(pool.token_ids, pool.lengths, proxy)[:, : pool.num_candidates // 2]
    return {**columns, ("self_similarity", None): similar} if similar.size else columns


def request_seconds(pool: Candidates) -> list[float]:
    """Seconds of a request by best-of-n, for every n: drawing, and for n > 1 scoring."""
    draw, score = seconds_per_candidate(pool)
    return [draw if n == 1 else n * (draw + score) for n in range(1, pool.num_candidates + 1)]


def distinct_ns(pool: Candidates, n: int) -> list[int]:
    """The n of which distinct n-grams are counted: powers of two, N, and the run's own."""
    return sorted({*(2**k for k in range(20) if 2**k <= pool.num_candidates), pool.num_candidates, n})


def kl_columns(pool: Candidates, is_base: bool) -> dict[str, Array]:
    """KL to the base policy of best-of-n for every n, by kind: [P, N] each, in nats per response."""
    proxy = pool.scores["proxy"]
    n = np.arange(1, pool.num_candidates + 1)
    bound = np.broadcast_to(best_of_n_kl_bound(n), proxy.shape)
    if is_base:
        logprobs, groups, _ = ascending(proxy, pool.logprobs)
        by_probability = [
            np.dot(averaged(best_of_n_kl_beirami(k, logprobs), groups), subset_weights(pool.num_candidates, int(k))) for k in n
        ]
        return {"bound": bound, "beirami": np.stack(by_probability, axis=1), "levels": best_of_n_kl_levels(proxy)}
    if MONTE_CARLO not in pool.scores:
        return {}
    # KL(best-of-n of the tuned policy || base) = KL(best-of-n || tuned) + E[log tuned/base] under best-of-n.
    kinds = {"bound": bound + best_of_n_mean(proxy, pool.scores[MONTE_CARLO])}
    first = {kind: pool.scores[column].mean(1, keepdims=True) for kind, column in
             (("monte_carlo", MONTE_CARLO), ("rao_blackwell", RAO_BLACKWELL))}  # fmt: skip
    return {**first, **kinds}


def checkpoint_rows(study: Study, pool: Candidates, method: str, step: int) -> Iterator[Row]:
    """Reward, win rate, length and measured KL of a policy in the middle of its training (n = 1)."""
    columns = checkpoint_columns(study, pool)
    for (metric, kind), interval in study.intervals(columns).items():
        yield from policy_rows(interval, method, study.seed, step, metric, kind)


def checkpoint_columns(study: Study, pool: Candidates) -> Columns:
    """Return what `checkpoint_rows` averages over prompts: [P, 1] each."""
    kl: Columns = {("kl", kind): matrix[:, :1] for kind, matrix in kl_columns(pool, False).items() if kind != "bound"}
    return {
        **{(name, None): pool.scores[name].mean(1, keepdims=True) for name in ("proxy", "gold") if name in pool.scores},
        ("win_rate", None): _win_rates(study, pool, [1]),
        ("length", None): pool.lengths.mean(1, keepdims=True),
        **kl,
    }


def distinct_rows(study: Study, pool: Candidates, ns: Sequence[int], names: Sequence[str], step: int | None) -> Iterator[Row]:
    """Distinct-1, -2 and -3 of one best-of-n response a prompt, for each n; `names` are the methods of these rows."""
    for order in (1, 2, 3):
        shares, without = best_of_n_distinct(pool.token_ids, pool.lengths, pool.scores["proxy"], order, ns)
        intervals = jackknife(shares, without)
        for k, name, *parts in zip(ns, names, *intervals, strict=True):
            yield _row(Interval(*parts), name, study.seed, step, k, f"distinct_{order}")


def _win_rates(study: Study, pool: Candidates, ns: Sequence[int]) -> Array:
    """Win rate in the reward that evaluates, against one response of the base policy [P, len(ns)]; the proxy selects."""
    opponent = None if pool is study.base else study.base.scores[study.judge]
    return win_rates(pool.scores["proxy"], list(ns), opponent=opponent, values=pool.scores[study.judge])


def _row(interval: Interval, method: str, seed: int, step: int | None, n: int, metric: str) -> Row:
    return Row(method, seed, step, n, metric, float(interval.value), float(interval.low), float(interval.high))


def policy_rows(
    curve: Interval, method: str, seed: int | None, step: int | None, metric: str, kl_kind: str | None, setting: str = ""
) -> Iterator[Row]:
    """The rows of one column of `curve_columns`, whose interval is [K]; perplexity is what its logarithm stands for."""
    for n, parts in enumerate(zip(*curve, strict=True), 1):
        value, low, high = (float(np.exp(part)) if metric == "perplexity" else float(part) for part in parts)
        yield Row(named(method, n), seed, step, n, metric, value, low, high, kl_kind, setting)
