"""Figures, read back from their axes and their files."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from bon.intervals import Interval
from suite.baselines.interface import Training
from suite.comparison.compare import training_rows
from suite.figures import page
from suite.figures.cost import reward_vs_cost, total_cost
from suite.figures.reward_distribution import reward_distribution
from suite.figures.reward_vs_kl import reward_vs_kl
from suite.figures.reward_vs_n import reward_vs_n
from suite.figures.run_figures import draw_figures
from suite.figures.style import color_of
from suite.metrics.cost import Costs, break_even
from suite.metrics.evaluation import Study, checkpoint_rows, curve_rows
from suite.metrics.naming import title
from suite.metrics.rows import select
from suite.metrics.series import last_step, tuned_methods

FILES = {f"{name}.{kind}" for name in ("reward_vs_n", "reward_vs_kl", "reward_distribution") for kind in ("png", "pdf", "svg")}


@pytest.fixture(scope="module")
def pools(random_pools):
    return random_pools


def flops(pool):
    """1,000 a candidate and request."""
    return np.tile(1000.0 * np.arange(1, pool.num_candidates + 1), (pool.num_prompts, 1))


@pytest.fixture(scope="module")
def rows(pools):
    study = Study(pools["base"], 0, 200)
    return [
        *curve_rows(study, pools["base"], "base", None, 4, flops(pools["base"])),
        *training_rows("ppo", 0, 4, Training({}, tokens=100, flops=10**9, seconds=1.0)),
        *checkpoint_rows(study, pools["ppo"].first(2), "ppo", 2),
        *curve_rows(study, pools["ppo"], "ppo", 4, 4, flops(pools["ppo"])),
    ]


@pytest.fixture
def axes():
    return Figure().subplots()


def labels(axes):
    return axes.get_legend_handles_labels()[1]


def line(axes, label):
    handles, names = axes.get_legend_handles_labels()
    return handles[names.index(label)]


@pytest.mark.parametrize("metric", ["proxy", "gold"])
def test_reward_against_n(axes, rows, metric):
    reward_vs_n(axes, rows, metric)
    assert axes.get_xscale() == "log"
    assert axes.xaxis.get_transform().base == 2
    assert axes.get_xlabel() == "n (candidates a prompt)"
    assert axes.get_ylabel() == f"{metric} reward (logit)"
    assert set(labels(axes)) == {"best-of-n", "PPO", "PPO + best-of-n"}
    x, y = line(axes, "best-of-n").get_data()
    assert x.tolist() == list(range(1, 9))
    expected = [row.value for row in rows if row.method in ("base", "best_of_n") and row.metric == metric]
    assert y.tolist() == expected
    assert list(axes.get_xticks()) == [1, 2, 4, 8]


def test_the_tuned_policy_is_a_level_of_its_last_checkpoint(axes, rows):
    reward_vs_n(axes, rows, "gold")
    (last,) = select(rows, method="ppo", metric="gold", n=1, step=4)
    assert set(line(axes, "PPO").get_ydata()) == {last.value}
    x, y = line(axes, "PPO + best-of-n").get_data()
    assert x.tolist() == [1, 2, 3, 4]
    assert y[0] == last.value


def test_the_bands_are_the_intervals(axes, rows):
    reward_vs_n(axes, rows, "proxy")
    curve = [row for row in rows if row.method in ("base", "best_of_n") and row.metric == "proxy"]
    corners = axes.collections[0].get_paths()[0].vertices
    for row in curve:
        heights = corners[np.isclose(corners[:, 0], row.n), 1]
        assert heights.min() == pytest.approx(row.ci_low)
        assert heights.max() == pytest.approx(row.ci_high)


@pytest.mark.parametrize("metric", ["proxy", "gold"])
def test_reward_against_kl_says_which_kl(axes, rows, metric):
    reward_vs_kl(axes, rows, metric)
    assert axes.get_xlabel() == "KL to the base policy (nats)"
    assert axes.get_ylabel() == f"{metric} reward (logit)"
    names = labels(axes)
    assert len(names) == len(set(names)) == 3
    assert sum("bound" in name for name in names) == 1
    assert sum("measured" in name for name in names) == 1
    assert all("best-of-n" in name for name in names if "bound" in name)
    assert all("PPO" in name for name in names if "measured" in name)


def test_points_of_reward_against_kl(axes, rows, pools):
    reward_vs_kl(axes, rows, "gold")
    n = np.arange(1, 9)
    x, y = line(axes, "best-of-n, KL upper bound (estimates agree)").get_data()
    assert x == pytest.approx(np.log(n) - (n - 1) / n)
    assert y[0] == pytest.approx(pools["base"].scores["gold"].mean())
    points = line(axes, "PPO over training, measured KL")[0]
    kl = pools["ppo"].scores["kl_rao_blackwell"]
    assert points.get_xdata() == pytest.approx([0.0, kl[:, :2].mean(), kl.mean()])
    gold = pools["ppo"].scores["gold"]
    assert points.get_ydata() == pytest.approx([pools["base"].scores["gold"].mean(), gold[:, :2].mean(), gold.mean()])


def test_an_estimate_of_kl_is_drawn_where_it_departs_from_the_bound(axes, rows):
    low = [replace(row, value=0.98 * row.value) if row.kl_kind == "levels" else row for row in rows]
    reward_vs_kl(axes, low, "gold")
    assert labels(axes)[:2] == ["best-of-n, KL upper bound", "best-of-n, KL from tied scores"]
    n = np.arange(1, 9)
    assert line(axes, "best-of-n, KL from tied scores").get_xdata() == pytest.approx(0.98 * (np.log(n) - (n - 1) / n))


@pytest.mark.parametrize("metric", ["proxy", "gold"])
def test_distributions_are_densities(axes, pools, metric):
    reward_distribution(axes, pools, 4, metric)
    assert axes.get_xlabel() == f"{metric} reward (logit)"
    assert axes.get_ylabel() == "density"
    assert labels(axes) == ["base policy", "best-of-4", "PPO"]
    for name in labels(axes):
        height, edges, _ = line(axes, name).get_data()
        assert (height * np.diff(edges)).sum() == pytest.approx(1.0)


def test_the_distribution_of_best_of_n_has_its_mean(axes, rows, pools):
    reward_distribution(axes, pools, 4, "proxy")
    (row,) = select(rows, method="best_of_n", n=4, metric="proxy")
    height, edges, _ = line(axes, "best-of-4").get_data()
    mean = (height * np.diff(edges) * (edges[1:] + edges[:-1]) / 2).sum()
    assert mean == pytest.approx(row.value, abs=np.diff(edges)[0] / 2)


def test_methods_differ_in_color():
    shown = [color_of(method) for method in ("base", "best_of_n", "ppo", "rloo", "grpo", "bon_sft", "another")]
    assert len(set(shown)) == 7
    assert color_of("ppo+best_of_n") == color_of("ppo")


@pytest.mark.parametrize(
    ("method", "n", "shown"),
    [
        ("base", None, "base policy"),
        ("base", 8, "base policy"),
        ("best_of_n", None, "best-of-n"),
        ("best_of_n", 8, "best-of-8"),
        ("ppo", 8, "PPO"),
        ("ppo+best_of_n", 8, "PPO + best-of-8"),
        ("ppo+best_of_n", None, "PPO + best-of-n"),
        ("grpo", 8, "GRPO"),
        ("bon_sft", 8, "best-of-n SFT"),
        ("bon_sft+best_of_n", 8, "best-of-n SFT + best-of-8"),
    ],
)
def test_titles(method, n, shown):
    assert title(method, n) == shown


@pytest.fixture(scope="module")
def files(rows, pools, tmp_path_factory):
    """What drawing them returned; all nine lie in one folder."""
    return draw_figures(rows, pools, 4, tmp_path_factory.mktemp("drawn") / "figures")


def test_files(files):
    folder = files[0].parent
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in files] == ["reward_vs_n.png", "reward_vs_kl.png", "reward_distribution.png"]
    for path in folder.iterdir():
        assert path.read_bytes().startswith({".png": b"\x89PNG", ".pdf": b"%PDF-", ".svg": b"<?xml"}[path.suffix])
        assert path.stat().st_size > 5000


def test_files_are_the_same_byte_for_byte_whatever_the_callers_style(files, rows, pools, tmp_path):
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9}):
        before = dict(mpl.rcParams)
        draw_figures(rows, pools, 4, tmp_path)
        assert dict(mpl.rcParams) == before
    for name in FILES:
        assert (files[0].parent / name).read_bytes() == (tmp_path / name).read_bytes(), name


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were made."""
    made = []

    class Kept(Figure):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(page, "Figure", Kept)
    return made


def test_the_legend_covers_no_data(rows, pools, tmp_path, drawn):
    draw_figures(rows, pools, 4, tmp_path)
    assert len(drawn) == 3
    for figure in drawn:
        (legend,) = figure.legends
        figure.canvas.draw()
        for axes in figure.axes:
            assert not legend.get_window_extent().overlaps(axes.get_window_extent())
            assert axes.get_legend() is None
        assert figure.bbox.containsx(legend.get_window_extent().x0)
        assert figure.bbox.containsx(legend.get_window_extent().x1)


def test_without_a_baseline(rows, pools, tmp_path, drawn):
    alone = [row for row in rows if row.step is None]
    draw_figures(alone, {"base": pools["base"]}, 4, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    shown = [text.get_text() for figure in drawn for text in figure.legends[0].get_texts()]
    assert shown == ["best-of-n", "best-of-n, KL upper bound (estimates agree)", "base policy", "best-of-4"]


def test_a_pool_of_two(hand_pool, tmp_path):
    pool = hand_pool([[0.0, 1.0], [2.0, 0.5]])
    rows = list(curve_rows(Study(pool, 0, 200), pool, "base", None, 1, flops(pool)))
    draw_figures(rows, {"base": pool}, 1, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_last_step_and_tuned_methods(rows):
    assert tuned_methods(rows) == ["ppo"]
    assert last_step(rows, "ppo") == 4
    assert last_step(rows, "base") is None


def test_reward_against_cost_reads_flops_and_reward_of_the_same_n(axes, rows):
    reward_vs_cost(axes, rows, "gold")
    assert axes.get_xscale() == "log"
    x, y = line(axes, "best-of-n").get_data()
    assert x.tolist() == [1000.0 * n for n in range(1, 9)]
    assert y.tolist() == [row.value for row in rows if row.method in ("base", "best_of_n") and row.metric == "gold"]
    assert set(labels(axes)) == {"best-of-n", "PPO + best-of-n", "base policy", "PPO, n = 1"}


def test_total_costs_cross_at_the_break_even(axes):
    costs = Costs(training=9000.0, tuned=10.0, best_of_n=10.0 * np.arange(1, 9))
    worth = Interval(*(np.asarray(n, dtype=float) for n in (4, 3, 6)))
    total_cost(axes, {"ppo": costs}, {"ppo": worth})
    requests, tuned = line(axes, "PPO").get_data()
    again, best = line(axes, "best-of-4 (as good)").get_data()
    assert requests.tolist() == again.tolist()
    crossing = requests[np.argmax(best > tuned)]
    assert break_even(costs, worth).requests.value == pytest.approx(300)
    assert 300 <= crossing < 330
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(60 * requests[-1])


def test_the_figure_of_costs_is_drawn_where_there_are_costs(rows, pools, tmp_path):
    costs = {"ppo": Costs(9000.0, 10.0, 10.0 * np.arange(1, 9))}
    out_of_reach = {"ppo": Interval(*(np.asarray(n) for n in (np.inf, 5.0, np.inf)))}
    files = draw_figures(rows, pools, 4, tmp_path, costs, out_of_reach)
    assert [file.name for file in files][-1] == "cost.png"
    assert {file.name for file in tmp_path.iterdir()} == FILES | {f"cost.{kind}" for kind in ("png", "pdf", "svg")}
