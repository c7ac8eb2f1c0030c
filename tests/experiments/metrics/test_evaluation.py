"""Rows from pools whose answers are known by hand."""

import csv
import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest

from suite.baselines.interface import Training
from suite.comparison.compare import training_rows
from suite.metrics.evaluation import Study, checkpoint_rows, curve_rows, distinct_rows
from suite.metrics.rows import Row, read_rows, select, write_rows
from suite.runtime.files import rounded

PROXY = np.array([[1.0, 4.0, 2.0, 3.0], [0.0, -1.0, 5.0, 2.0], [7.0, 6.0, 1.0, 0.5]])
GOLD = np.array([[0.3, 0.1, -0.4, 0.9], [2.0, 1.0, -3.0, 0.0], [0.5, 0.25, 0.75, 1.5]])
LENGTHS = np.array([[1, 2, 3, 4], [4, 4, 2, 1], [3, 3, 1, 2]], dtype=np.int32)
FLOPS = 1e6 * np.arange(1, 13.0).reshape(3, 4)
LOGPROBS = -np.array([[2.0, 9.0, 7.0, 8.0], [9.0, 12.0, 3.0, 2.0], [6.0, 5.0, 2.0, 6.0]])


@pytest.fixture
def base(hand_pool):
    return hand_pool(PROXY, GOLD, lengths=LENGTHS, logprobs=LOGPROBS, ref_logprobs=LOGPROBS)


@pytest.fixture
def study(base):
    return Study(base, seed=0, resamples=200)


@pytest.fixture
def rows(study, base):
    return list(curve_rows(study, base, "base", None, 3, FLOPS))


def value(rows, **wanted):
    (row,) = select(rows, **wanted)
    return row.value


def best_of(values, n):
    """Mean over prompts of the value of the proxy's best, over all n-subsets."""
    picks = [[max(subset, key=lambda c: PROXY[p, c]) for subset in itertools.combinations(range(4), n)] for p in range(3)]
    return np.mean([np.mean([values[p, c] for c in row]) for p, row in enumerate(picks)])


def test_n_1_is_the_plain_mean(rows):
    at = {"method": "base", "n": 1}
    assert value(rows, metric="proxy", **at) == pytest.approx(PROXY.mean())
    assert value(rows, metric="gold", **at) == pytest.approx(GOLD.mean())
    assert value(rows, metric="length", **at) == pytest.approx(LENGTHS.mean())
    assert value(rows, metric="tokens_per_request", **at) == pytest.approx(LENGTHS.mean())
    assert value(rows, metric="perplexity", **at) == pytest.approx(math.exp((-LOGPROBS / LENGTHS).mean()))
    assert value(rows, metric="win_rate", **at) == pytest.approx(0.5)
    assert value(rows, metric="kl", kl_kind="bound", **at) == 0
    assert value(rows, metric="kl", kl_kind="beirami", **at) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("metric", "values"), [("proxy", PROXY), ("gold", GOLD), ("length", LENGTHS)])
def test_n_all_is_the_value_of_the_best(rows, metric, values):
    best = PROXY.argmax(1)
    assert best.tolist() == [1, 2, 0]
    expected = np.mean([values[p, best[p]] for p in range(3)])
    assert value(rows, method="best_of_n", n=4, metric=metric) == pytest.approx(expected)


@pytest.mark.parametrize("n", [2, 3])
def test_between_them_all_subsets(rows, n):
    at = {"method": "best_of_n", "n": n}
    assert value(rows, metric="proxy", **at) == pytest.approx(best_of(PROXY, n))
    assert value(rows, metric="gold", **at) == pytest.approx(best_of(GOLD, n))
    assert value(rows, metric="length", **at) == pytest.approx(best_of(LENGTHS, n))
    perplexity = math.exp(best_of(-LOGPROBS / LENGTHS, n))
    assert value(rows, metric="perplexity", **at) == pytest.approx(perplexity)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_kl_of_best_of_n(rows, n):
    (bound,) = select(rows, method="best_of_n", n=n, metric="kl", kl_kind="bound")
    assert bound.value == pytest.approx(math.log(n) - (n - 1) / n)
    assert bound.ci_low == pytest.approx(bound.value)
    assert bound.ci_high == pytest.approx(bound.value)
    assert value(rows, method="best_of_n", n=n, metric="kl", kl_kind="beirami") <= bound.value + 1e-12


def test_cost_of_a_request(rows):
    # 12 candidates: 2 s to draw, 1 s to score.
    draw, score = 2 / 12, 1 / 12
    assert value(rows, n=1, metric="seconds_per_request") == pytest.approx(draw)
    for n in (2, 3, 4):
        assert value(rows, n=n, metric="seconds_per_request") == pytest.approx(n * (draw + score))
        assert value(rows, n=n, metric="tokens_per_request") == pytest.approx(n * LENGTHS.mean())


def test_what_the_reward_model_reads_for_a_request(study, hand_pool):
    read = LENGTHS + np.array([[2], [3], [5]])
    pool = hand_pool(PROXY, GOLD, lengths=LENGTHS, logprobs=LOGPROBS, scores={"proxy_tokens": read})
    rows = select(list(curve_rows(study, pool, "base", None, 3, FLOPS)), metric="reward_tokens_per_request")
    # One draw is not scored; of n every one is read, prompt and response.
    assert [(row.method, row.n) for row in rows] == [("base", 1), *(("best_of_n", n) for n in (2, 3, 4))]
    assert [row.value for row in rows] == pytest.approx([0, *(n * read.mean() for n in (2, 3, 4))])


def test_flops_of_a_request_are_the_mean_over_prompts(rows):
    assert value(rows, n=3, metric="flops_per_request") == pytest.approx(1e6 * (3 + 7 + 11) / 3)


def test_win_rate_counts_pairs(rows):
    # n = 2: the best of each pair against each of the two candidates left out.
    wins = [
        GOLD[p, max(pair, key=lambda c: PROXY[p, c])] > GOLD[p, other]
        for p in range(3)
        for pair in itertools.combinations(range(4), 2)
        for other in set(range(4)) - set(pair)
    ]
    assert value(rows, n=2, metric="win_rate") == pytest.approx(np.mean(wins))


def test_every_n_has_one_row_of_every_metric(rows):
    metrics = {"proxy", "gold", "win_rate", "length", "perplexity", "tokens_per_request", "seconds_per_request"}
    metrics.add("flops_per_request")
    for metric in metrics:
        found = select(rows, metric=metric)
        assert [(row.method, row.n) for row in found] == [("base", 1), *(("best_of_n", n) for n in (2, 3, 4))]
    for kind in ("bound", "beirami", "levels"):
        assert [row.n for row in select(rows, metric="kl", kl_kind=kind)] == [1, 2, 3, 4]
    for order in (1, 2, 3):  # for powers of two, N and the run's own n
        assert [row.n for row in select(rows, metric=f"distinct_{order}")] == [1, 2, 3, 4]
    assert [row.n for row in select(rows, metric="self_similarity")] == [1, 2]  # two disjoint subsets
    assert {row.metric for row in rows} == metrics | {"kl", "distinct_1", "distinct_2", "distinct_3", "self_similarity"}
    assert {row.step for row in rows} == {None}
    assert {row.seed for row in rows} == {0}


def test_intervals_hold_their_value(rows):
    for row in rows:
        if row.metric != "seconds_per_request":
            assert row.ci_low <= row.value + 1e-12
            assert row.value <= row.ci_high + 1e-12
    (proxy,) = select(rows, n=1, metric="proxy")
    assert proxy.ci_high - proxy.ci_low > 0.1


def test_the_bootstrap_is_repeatable(base, rows):
    assert list(curve_rows(Study(base, 0, 200), base, "base", None, 3, FLOPS)) == rows
    other = list(curve_rows(Study(base, 1, 200), base, "base", None, 3, FLOPS))
    assert [row.value for row in other] == [row.value for row in rows]
    assert [row.ci_low for row in other] != [row.ci_low for row in rows]


def test_distinct_2_of_the_best(study, hand_pool):
    tokens = np.array([[[1, 2, 3], [1, 2, 3]], [[1, 2, 3], [4, 5, 6]]], dtype=np.int32)
    pool = hand_pool([[0.0, 1.0], [0.0, 1.0]], token_ids=tokens, lengths=np.full((2, 2), 3, dtype=np.int32))

    def distinct_2(pool):
        rows = distinct_rows(study, pool, [1, 2], ["base", "best_of_n"], None)
        return [(row.method, row.value) for row in rows if row.metric == "distinct_2"]

    # n = 1: two draws say the same half of the time (2 of 4 pairs), else not (4 of 4); n = 2: the second ones.
    assert distinct_2(pool) == [("base", pytest.approx(0.75)), ("best_of_n", pytest.approx(1.0))]
    # Tokens beyond the length of a response mean nothing.
    short = hand_pool([[0.0, 1.0], [0.0, 1.0]], token_ids=tokens, lengths=np.full((2, 2), 2, dtype=np.int32))
    assert distinct_2(short)[0] == ("base", pytest.approx((0.5 + 1.0) / 2))


@pytest.fixture
def tuned(hand_pool):
    return hand_pool(
        PROXY + 1, GOLD + 2, lengths=LENGTHS, logprobs=LOGPROBS,
        scores={"kl_monte_carlo": PROXY / 10, "kl_rao_blackwell": PROXY / 20 + 1},
    )  # fmt: skip


def test_rows_of_a_tuned_policy(study, tuned):
    rows = list(curve_rows(study, tuned, "ppo", 40, 2, FLOPS))
    assert {(row.method, row.n == 1) for row in rows} == {("ppo", True), ("ppo+best_of_n", False)}
    assert {row.step for row in rows} == {40}
    assert value(rows, n=1, metric="gold") == pytest.approx(GOLD.mean() + 2)
    assert value(rows, n=1, metric="kl", kl_kind="monte_carlo") == pytest.approx((PROXY / 10).mean())
    assert value(rows, n=1, metric="kl", kl_kind="rao_blackwell") == pytest.approx((PROXY / 20 + 1).mean())
    for n in (2, 3, 4):
        # What selecting adds, at most, and the log ratio of what was selected.
        expected = math.log(n) - (n - 1) / n + best_of(PROXY / 10, n)
        assert value(rows, n=n, metric="kl", kl_kind="bound") == pytest.approx(expected)
        assert [row.kl_kind for row in select(rows, n=n, metric="kl")] == ["bound"]
    wins = [
        (GOLD[p, a] + 2 > GOLD[p, b]) + 0.5 * (GOLD[p, a] + 2 == GOLD[p, b])
        for p in range(3)
        for a in range(4)
        for b in range(4)
    ]
    assert value(rows, n=1, metric="win_rate") == pytest.approx(np.mean(wins))


def test_perplexity_is_the_base_policys(study, hand_pool):
    pool = hand_pool(PROXY, GOLD, lengths=LENGTHS, logprobs=LOGPROBS, ref_logprobs=2 * LOGPROBS)
    rows = list(curve_rows(study, pool, "ppo", 40, 2, FLOPS))
    assert value(rows, n=1, metric="perplexity") == pytest.approx(math.exp((-2 * LOGPROBS / LENGTHS).mean()))


def test_without_a_measured_kl_there_is_no_row(study, hand_pool):
    rows = list(curve_rows(study, hand_pool(PROXY, GOLD, ref_logprobs=None), "ppo", 40, 2, FLOPS))
    assert select(rows, metric="kl") == []
    assert len(select(rows, metric="perplexity")) == 4


def test_rows_of_a_checkpoint(study, tuned):
    rows = list(checkpoint_rows(study, tuned, "ppo", 10))
    assert {(row.method, row.step, row.n) for row in rows} == {("ppo", 10, 1)}
    assert [(row.metric, row.kl_kind) for row in rows] == [
        ("proxy", None), ("gold", None), ("win_rate", None), ("length", None), ("kl", "monte_carlo"), ("kl", "rao_blackwell"),
    ]  # fmt: skip
    assert value(rows, metric="proxy") == pytest.approx(PROXY.mean() + 1)
    assert value(rows, metric="kl", kl_kind="rao_blackwell") == pytest.approx((PROXY / 20 + 1).mean())
    last = list(curve_rows(study, tuned, "ppo", 10, 2, FLOPS))
    for row in rows:
        (same,) = select(last, metric=row.metric, n=1, kl_kind=row.kl_kind)
        assert same.value == pytest.approx(row.value)
        assert same.ci_low == pytest.approx(row.ci_low)


def test_cost_of_training():
    rows = training_rows("ppo", 3, 40, Training({}, [], 61_440, 81_920, 2 * 10**12, 12.5))
    assert value(rows, metric="training_tokens", method="ppo", seed=3, step=40) == 61_440
    assert value(rows, metric="training_reward_tokens") == 81_920
    assert value(rows, metric="training_flops") == 2e12
    assert value(rows, metric="training_seconds") == 12.5


def test_csv_round_trip(rows, study, tuned, tmp_path):
    training = Training({}, tokens=100, reward_tokens=120, flops=10**9, seconds=1.5)
    written = [*rows, *curve_rows(study, tuned, "ppo", 40, 2, FLOPS), *training_rows("ppo", 0, 40, training)]
    write_rows(written, tmp_path / "metrics.csv")
    assert [asdict(row) for row in read_rows(tmp_path / "metrics.csv")] == [rounded(asdict(row)) for row in written]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert header == ["method", "seed", "step", "n", "metric", "value", "ci_low", "ci_high", "kl_kind", "setting"]


def test_rows_over_all_seeds_and_of_a_setting(tmp_path):
    written = [Row("ppo", None, 8, 1, "gold", 1.5, 1.0, 2.0, setting="kl_coef=0.1"), Row("ppo", 0, 8, 1, "gold", 1.25)]
    write_rows(written, tmp_path / "metrics.csv")
    assert [asdict(row) for row in read_rows(tmp_path / "metrics.csv")] == [rounded(asdict(row)) for row in written]


def test_files_without_settings_are_read(tmp_path):
    header = "method,seed,step,n,metric,value,ci_low,ci_high,kl_kind"
    (tmp_path / "metrics.csv").write_text(f"{header}\nbase,0,,1,proxy,1.0,,,\n")
    assert read_rows(tmp_path / "metrics.csv") == [Row("base", 0, None, 1, "proxy", 1.0)]


def test_csv_is_whole_or_not_there(tmp_path):
    write_rows([Row("base", 0, None, 1, "proxy", 1.0)], tmp_path / "metrics.csv")
    before = (tmp_path / "metrics.csv").read_text()
    with pytest.raises(TypeError):
        write_rows([Row("base", 0, None, 1, "proxy", 2.0), None], tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text() == before


def test_csv_that_failed_leaves_no_rubbish(tmp_path):
    with pytest.raises(TypeError):
        write_rows([None], tmp_path / "metrics.csv")
    assert list(tmp_path.iterdir()) == []


def test_select(rows):
    assert select(rows, metric="proxy", n=1)[0].method == "base"
    assert select(rows, metric="proxy", kl_kind="bound") == []
    assert select(rows) == rows
