"""Pools to tidy rows: the only place where numbers are made."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bon import Candidates
from bon.diversity import best_of_n_distinct, self_similarity
from bon.estimators import best_of_n_mean, win_rates
from bon.intervals import Interval, bootstrap_mean, jackknife
from bon.kl import best_of_n_kl_beirami, best_of_n_kl_bound, best_of_n_kl_levels
from suite.pools import MONTE_CARLO, RAO_BLACKWELL, seconds_per_candidate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """A number with its interval. `step` is the training update (None for the base policy), `n` of best-of-n.

    `seed` is None in a row over all training seeds; `setting` says what was swept, for example `kl_coef=0.1`.
    """

    method: str
    seed: int | None
    step: int | None
    n: int
    metric: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    kl_kind: str | None = None
    setting: str = ""


@dataclass(frozen=True)
class Study:
    """How numbers are made: the seed of the bootstrap, its samples, and the base policy's pool that all are compared with."""

    base: Candidates
    seed: int
    resamples: int

    def rng(self) -> np.random.Generator:
        """The same resampled prompts for every number, so that numbers can be compared."""
        return np.random.default_rng([self.seed, 7])

    def interval(self, values: Array) -> Interval:
        """Mean over prompts [P, ...] with its interval."""
        return bootstrap_mean(values, self.rng(), resamples=self.resamples)


def curve_rows(study: Study, pool: Candidates, method: str, step: int | None, n: int, flops: Array) -> Iterator[Row]:
    """Every metric of best-of-n for every n from 1 to N, from one pool.

    `method` names n = 1; larger n are "best_of_n" of the base policy and "<method>+best_of_n" of a tuned one. Distinct n-grams
    cost more than the others: they are there for powers of two, for N and for the run's own `n`. Self-similarity ends at
    N / 2. `flops` [P, N] is what a request costs.
    """
    best = "best_of_n" if method == "base" else f"{method}+best_of_n"
    proxy, gold = pool.scores["proxy"], pool.scores["gold"]
    ns = range(1, pool.num_candidates + 1)
    perplexity = -(pool.ref_logprobs if pool.ref_logprobs is not None else pool.logprobs) / pool.lengths
    columns = {
        "proxy": best_of_n_mean(proxy),
        "gold": best_of_n_mean(proxy, gold),
        "win_rate": _win_rates(study, pool, ns),
        "length": best_of_n_mean(proxy, pool.lengths),
    }
    for metric, values in columns.items():
        yield from _rows(study.interval(values), best, method, study.seed, step, metric)
    logs = study.interval(best_of_n_mean(proxy, perplexity))
    yield from _rows(Interval(*(np.exp(part) for part in logs)), best, method, study.seed, step, "perplexity")
    for kind, values in kl_columns(pool, method == "base").items():
        yield from _rows(study.interval(values), best, method, study.seed, step, "kl", kind)
    tokens = np.arange(1, pool.num_candidates + 1) * pool.lengths.mean(1, keepdims=True)
    yield from _rows(study.interval(tokens), best, method, study.seed, step, "tokens_per_request")
    yield from _rows(study.interval(flops), best, method, study.seed, step, "flops_per_request")
    draw, score = seconds_per_candidate(pool)
    for k in ns:
        seconds = draw if k == 1 else k * (draw + score)
        yield Row(method if k == 1 else best, study.seed, step, k, "seconds_per_request", seconds)
    similar = self_similarity(pool.token_ids, pool.lengths, proxy)[:, : pool.num_candidates // 2]
    if similar.size:
        yield from _rows(study.interval(similar), best, method, study.seed, step, "self_similarity")
    few = sorted({*(2**k for k in range(20) if 2**k <= pool.num_candidates), pool.num_candidates, n})
    yield from distinct_rows(study, pool, few, [method if k == 1 else best for k in few], step)


def kl_columns(pool: Candidates, is_base: bool) -> dict[str, Array]:
    """KL to the base policy of best-of-n for every n, by kind: [P, N] each, in nats per response."""
    proxy = pool.scores["proxy"]
    n = np.arange(1, pool.num_candidates + 1)
    bound = np.broadcast_to(best_of_n_kl_bound(n), proxy.shape)
    if is_base:
        by_probability = [best_of_n_mean(proxy, best_of_n_kl_beirami(k, pool.logprobs))[:, k - 1] for k in n]
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
    values = {
        "proxy": pool.scores["proxy"].mean(1),
        "gold": pool.scores["gold"].mean(1),
        "win_rate": _win_rates(study, pool, [1])[:, 0],
        "length": pool.lengths.mean(1),
    }
    for metric, column in values.items():
        yield _row(study.interval(column), method, study.seed, step, 1, metric)
    for kind, matrix in kl_columns(pool, False).items():
        if kind != "bound":
            yield _row(study.interval(matrix[:, 0]), method, study.seed, step, 1, "kl", kind)


def distinct_rows(study: Study, pool: Candidates, ns: Sequence[int], names: Sequence[str], step: int | None) -> Iterator[Row]:
    """Distinct-1, -2 and -3 of one best-of-n response a prompt, for each n; `names` are the methods of these rows."""
    for order in (1, 2, 3):
        shares, without = best_of_n_distinct(pool.token_ids, pool.lengths, pool.scores["proxy"], order, ns)
        intervals = jackknife(shares, without)
        for k, name, *parts in zip(ns, names, *intervals, strict=True):
            yield _row(Interval(*parts), name, study.seed, step, k, f"distinct_{order}")


def training_rows(method: str, seed: int, step: int, tokens: int, flops: float, seconds: float) -> list[Row]:
    """What training cost, once."""
    return [
        Row(method, seed, step, 1, "training_tokens", tokens),
        Row(method, seed, step, 1, "training_flops", flops),
        Row(method, seed, step, 1, "training_seconds", seconds),
    ]


def select(rows: Sequence[Row], **wanted: object) -> list[Row]:
    """The rows whose fields have these values."""
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """`metrics.csv`: whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_rows(path: Path) -> list[Row]:
    """What `write_rows` wrote; files from before there were settings too."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(
                method=line["method"],
                seed=int(line["seed"]) if line["seed"] else None,
                step=int(line["step"]) if line["step"] else None,
                n=int(line["n"]),
                metric=line["metric"],
                value=float(line["value"]),
                ci_low=float(line["ci_low"]) if line["ci_low"] else None,
                ci_high=float(line["ci_high"]) if line["ci_high"] else None,
                kl_kind=line["kl_kind"] or None,
                setting=line.get("setting") or "",
            )
            for line in csv.DictReader(file)
        ]


def _win_rates(study: Study, pool: Candidates, ns: Sequence[int]) -> Array:
    """Gold win rate against one response of the base policy [P, len(ns)], selecting by proxy."""
    opponent = None if pool is study.base else study.base.scores["gold"]
    return win_rates(pool.scores["proxy"], list(ns), opponent=opponent, values=pool.scores["gold"])


def _row(interval: Interval, method: str, seed: int, step: int | None, n: int, metric: str, kl_kind: str | None = None) -> Row:
    return Row(method, seed, step, n, metric, float(interval.value), float(interval.low), float(interval.high), kl_kind)


def _rows(
    curve: Interval, best: str, method: str, seed: int, step: int | None, metric: str, kl_kind: str | None = None
) -> Iterator[Row]:
    parts = (np.atleast_1d(part) for part in curve)
    for n, (value, low, high) in enumerate(zip(*parts, strict=True), 1):
        yield _row(Interval(value, low, high), method if n == 1 else best, seed, step, n, metric, kl_kind)
