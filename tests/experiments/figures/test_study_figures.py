"""Figures of the studies, on studies of known laws: what is drawn, that it can be read and is the same on each drawing."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import study_folders
from matplotlib.colors import to_rgba
from matplotlib.container import BarContainer
from matplotlib.text import Text

from suite.figures import style
from suite.figures.margin import apart
from suite.figures.page import FORMATS, page
from suite.figures.speed import SPEED
from suite.figures.studies import FIGURES, checked_names, draw, figures_of, loaded
from suite.metrics.methods import METHODS
from suite.metrics.results import Results
from suite.metrics.rows import Row, select
from suite.metrics.series import over_seeds, over_training, settings, spread
from suite.metrics.speeds import Speed, write_csv
from suite.metrics.statements import differences
from suite.runtime.errors import UserError

SPEEDS = [
    Speed(what, n, name, speed, 0.9 * speed, 1.1 * speed, unit, ratio)
    for what, n, name, speed, unit, ratio in [
        ("sampling", 1, "bon, fp32", 100.0, "tokens/s", 1.0),
        ("sampling", 1, "TRL 0.24, fp32", 50.0, "tokens/s", 2.0),
        ("sampling", 8, "bon, fp32", 400.0, "tokens/s", 1.0),
        ("sampling", 8, "TRL 0.24, fp32", 80.0, "tokens/s", 5.0),
        ("sampling", 8, "limit: matrix products, fp32", 900.0, "tokens/s", 0.4),
        ("sampling", 8, "bon, bf16", float("nan"), "tokens/s", float("nan")),
        ("PPO update", None, "ours, shared critic", 20.0, "updates/min", 1.0),
        ("PPO update", None, "stock TRL", 10.0, "updates/min", 2.0),
    ]
]
ALL = [(study, name) for study, figures in FIGURES.items() for name in figures]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Study -> its folder."""
    made = tmp_path_factory.mktemp("results")
    (made / "benchmark").mkdir()
    write_csv(SPEEDS, made / "benchmark" / "speed.csv")
    kinds = ("frontier", "weak_proxy", "notebook")
    made_of = {name: getattr(study_folders, name)(made / name) for name in kinds}
    return {**made_of, "smollm2": study_folders.frontier(made / "smollm2"), "benchmark": made / "benchmark"}


@pytest.fixture(scope="module")
def pages(folders):
    """(study, name) -> its figure, laid out."""
    made = {}
    with style.styled():
        for study, name in ALL:
            made[study, name] = FIGURES[study][name].figure(loaded(study, folders[study]))
            made[study, name].draw_without_rendering()
    return made


def boxes(figure):
    """Every text that is seen with its place on the page, in pixels."""
    seen = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    found = [(text.get_text(), text.get_window_extent()) for text in seen]
    inside = []
    for axes in figure.axes:  # ticks beyond the limits exist but are not drawn
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not min(low, high) <= tick.get_loc() <= max(low, high):
                    inside += [tick.label1, tick.label2]
    return [(name, box) for text, (name, box) in zip(seen, found, strict=True) if text not in inside]


@pytest.mark.parametrize(("study", "name"), ALL)
def test_no_text_overlaps_another_or_leaves_the_page(pages, study, name):
    figure = pages[study, name]
    found = boxes(figure)
    assert len(found) > 8
    for k, (text, box) in enumerate(found):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text
        for other, another in found[k + 1 :]:
            assert not box.padded(-1).overlaps(another.padded(-1)), (text, other)


@pytest.mark.parametrize(("study", "name"), ALL)
def test_no_legend_covers_data_and_every_axis_has_its_name(pages, study, name):
    figure = pages[study, name]
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    for axes in figure.axes:
        assert axes.get_ylabel()
        assert axes.get_xlabel() or any(label.get_text() for label in axes.get_xticklabels()) or study == "benchmark"
        for legend in legends:
            assert not legend.get_window_extent().overlaps(axes.bbox)
    assert legends
    assert figure.get_figwidth() in (style.SINGLE_COLUMN, style.DOUBLE_COLUMN)


def test_overlaps_are_found():
    with style.styled():
        figure = page([lambda axes: (axes.text(0.5, 0.5, "one"), axes.text(0.5, 0.5, "two"))])
        figure.draw_without_rendering()
    (one,), (two,) = ([box for name, box in boxes(figure) if name == wanted] for wanted in ("one", "two"))
    assert one.padded(-1).overlaps(two.padded(-1))


@pytest.mark.parametrize("name", [name for study, name in ALL if study == "frontier" and name != "training"])
def test_every_method_has_its_color(pages, name):
    entries = {}
    for axes in pages["frontier", name].axes:
        entries |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    words = {"PPO": "ppo", "RLOO": "rloo", "GRPO": "grpo", "best-of-n SFT": "bon_sft", "best-of-": "best_of_n", "base": "base"}
    seen = 0
    for label, handle in entries.items():
        method = next((key for word, key in words.items() if label.startswith(word)), None)
        first = handle[0] if isinstance(handle, tuple) else handle
        shade = first.get_color() if hasattr(first, "get_color") else first.get_edgecolor()
        if method is not None:
            seen += 1
            assert to_rgba(shade)[:3] == to_rgba(style.color_of(method))[:3], label
    assert seen


def test_methods_are_told_apart_without_color():
    methods = [method for method in METHODS if method != "optimum"]  # its line is drawn like no other's: thin, in black
    assert len({style.marker(method) for method in methods}) == len(methods)
    assert len({str(style.line_style(method)) for method in methods}) == len(methods)
    assert style.line_style("ppo+best_of_n") not in [style.line_style(method) for method in methods]


@pytest.mark.parametrize("study", ["weak_proxy", "notebook", "benchmark"])
def test_files_are_the_same_on_each_drawing(folders, study):
    def digests():
        files = draw(study, folders[study])
        assert [file.stem for file in files] == list(FIGURES[study])
        found = sorted((folders[study] / "figures").iterdir())
        assert {file.suffix[1:] for file in found} == set(FORMATS)
        assert len(found) == len(FORMATS) * len(files)
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in found}

    assert digests() == digests()


def test_one_figure_of_the_frontier_is_the_same_on_each_drawing(folders):
    folder = folders["frontier"]
    draw("frontier", folder, ["reward_vs_kl"])
    first = {file.name: file.read_bytes() for file in (folder / "figures").iterdir()}
    assert set(first) == {f"reward_vs_kl.{kind}" for kind in FORMATS}
    draw("frontier", folder, ["reward_vs_kl"])
    assert {file.name: file.read_bytes() for file in (folder / "figures").iterdir()} == first
    assert b"/FontFile2" in first["reward_vs_kl.pdf"]  # TrueType, embedded
    assert b"<text" not in first["reward_vs_kl.svg"]  # letters are paths: no font is needed


@pytest.mark.parametrize(
    ("study", "names", "told"),
    [
        ("frontier", ["cots"], r"figure=cots: frontier has reward_vs_n, reward_vs_kl, .*cost, .*quality, .*reward_dist"),
        ("frontir", None, r"study=frontir: there are figures of frontier, weak_proxy, notebook, benchmark"),
    ],
)
def test_unknown_names_are_refused_with_the_list(folders, study, names, told):
    with pytest.raises(UserError, match=told):
        draw(study, folders["frontier"], names)


@pytest.mark.parametrize("study", list(FIGURES))
def test_missing_results_name_the_command(tmp_path, study):
    made_by = (
        "experiments/benchmark.py" if study == "benchmark" else rf"experiments/reproduce.py --from-scratch studies=\[{study}\]"
    )
    with pytest.raises(UserError, match=rf"{study}: .* is missing; `python {made_by}` makes it"):
        draw(study, tmp_path)


def test_results_of_another_schema(folders, tmp_path):
    (tmp_path / "findings.json").write_text("{}", encoding="utf-8")
    (tmp_path / "metrics.csv").write_text("name,number\nppo,1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"frontier: .* of another schema .*--from-scratch studies=\[frontier\]"):
        draw("frontier", tmp_path)


@pytest.mark.parametrize(("panel", "metric"), [(0, "proxy"), (1, "gold"), (2, "win_rate")])
def test_the_frontier_is_drawn_at_the_rows_over_all_seeds(folders, pages, panel, metric):
    results = Results.load("frontier", folders["frontier"])
    axes = pages["frontier", "reward_vs_kl"].axes[panel]
    handles, labels = axes.get_legend_handles_labels()
    points = handles[labels.index("PPO over kl_coef")][0]
    at = {"method": "ppo", "n": 1, "step": 16, "seed": None}
    kl = sorted(row.value for row in select(results.rows, metric="kl", kl_kind="rao_blackwell", **at))
    assert points.get_xdata().tolist() == kl
    assert len(kl) == len(study_folders.SWEPT)
    assert sorted(points.get_ydata()) == sorted(row.value for row in select(results.rows, metric=metric, **at))


def test_shares_stand_at_their_prices_open_where_they_are_bounds(folders, pages):
    (axes,) = pages["frontier", "share"].axes
    handles, labels = axes.get_legend_handles_labels()
    assert set(labels) == {"best-of-n, best n", "PPO", "PPO, at most", "RLOO", "GRPO", "best-of-n SFT"}
    points, bounds = (handles[labels.index(name)][0] for name in ("PPO", "PPO, at most"))
    assert points.get_xdata().tolist() == [0.1, 0.2, 0.5]
    assert bounds.get_xdata().tolist() == [0.02, 0.05]
    assert (points.get_fillstyle(), bounds.get_fillstyle()) == ("full", "none")
    kl = study_folders.SWEPT[0.2]
    assert points.get_ydata()[1] == pytest.approx(2 * 0.2 * (np.sqrt(2 * kl) - 0.2 * kl))


def test_the_optimum_is_the_upper_edge(pages):
    proxy, gold, win_rate = pages["frontier", "reward_vs_kl"].axes
    handles, labels = proxy.get_legend_handles_labels()
    edge = handles[labels.index("optimum: the most proxy that this KL can buy")]
    np.testing.assert_allclose(edge.get_ydata(), np.sqrt(2 * edge.get_xdata()))
    assert edge.get_xdata().tolist() == [0.125, 0.5, 2.0, pytest.approx(1 / 0.18), 12.5]
    assert "optimum: the most proxy that this KL can buy" in gold.get_legend_handles_labels()[1]
    assert "optimum: the most proxy that this KL can buy" not in win_rate.get_legend_handles_labels()[1]


def test_training_curves_are_means_over_seeds_of_parts_of_the_training(folders, pages):
    score, kl, entropy, share = pages["frontier", "training"].axes
    lines = dict(zip(*reversed(kl.get_legend_handles_labels()), strict=True))
    drawn = lines["PPO at kl_coef 0.2"]
    way = 3.5 * (1 - np.exp(-np.arange(1, 81) / 20)) * np.mean([1, 1.1, 1.2])
    np.testing.assert_allclose(drawn.get_ydata(), way.reshape(-1, 2).mean(1), rtol=1e-6)
    assert drawn.get_xdata()[:2].tolist() == [1.5, 3.5]
    labels = share.get_legend_handles_labels()[1]
    assert "optimum" in labels
    assert {"PPO at kl_coef 0.02", "GRPO"} <= set(labels)
    assert len(score.lines) == len(entropy.lines) == 6


def test_folders_of_before_there_was_an_objective_have_no_figures_of_it(folders):
    results = Results.load("frontier", folders["frontier"])
    assert {"share", "training"} <= figures_of("frontier", results).keys()
    without = [row for row in results.rows if not row.metric.startswith("share")]
    before = replace(results, rows=without)
    assert not {"share", "training"} & figures_of("frontier", before).keys()
    assert "training" not in figures_of("frontier", replace(results, folder=None))


def test_names_of_single_figures_go_to_their_studies():
    assert checked_names(["frontier", "notebook"], []) == {"frontier": None, "notebook": None}
    assert checked_names(["frontier", "notebook"], ["notebook", "cost"]) == {"frontier": ["cost"], "notebook": ["notebook"]}
    with pytest.raises(UserError, match=r"figures=cost is not a figure of notebook: there are notebook"):
        checked_names(["notebook"], ["cost"])


def test_levels_are_named_at_their_heights(folders, pages):
    results = Results.load("frontier", folders["frontier"])
    axes = pages["frontier", "reward_vs_n"].axes[1]
    low, high = axes.get_ylim()
    named = {text.get_text(): low + text.get_position()[1] * (high - low) for text in axes.texts}
    assert list(named) == [f"kl_coef {value:g}" for value in sorted(study_folders.SWEPT, reverse=True)]
    for value in study_folders.SWEPT:
        (row,) = select(results.rows, method="ppo", n=1, step=16, metric="gold", setting=f"kl_coef={value}")
        assert named[f"kl_coef {value:g}"] == pytest.approx(row.value, abs=0.08 * (high - low))


def test_pools_of_all_seeds_side_by_side(folders):
    results = Results.load("frontier", folders["frontier"])
    pool = results.pool("ppo", "kl_coef=0.02")
    assert pool.scores["gold"].shape == (24, 3 * 8)
    assert results.pool("ppo", "kl_coef=0.3") is None
    assert pool.scores["proxy"].mean() == pytest.approx(np.sqrt(2 * study_folders.SWEPT[0.02]), abs=0.6)
    law = study_folders.Law(24, 32)
    assert results.pool("base").scores["proxy"] == pytest.approx(law.base[0], abs=1e-6)  # the file's rows are in no order


def test_heights_that_are_close_move_apart_as_little_as_possible():
    assert apart(np.array([0.1, 0.5, 0.9]), 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert apart(np.array([0.5, 0.5]), 0.1) == pytest.approx([0.45, 0.55])
    assert apart(np.array([0.2, 0.5, 0.5, 0.5]), 0.1) == pytest.approx([0.2, 0.4, 0.5, 0.6])
    rng = np.random.default_rng(0)
    for _ in range(20):
        wanted = np.sort(rng.uniform(size=5))
        found = apart(wanted, 0.1)
        assert np.diff(found).min() >= 0.1 - 1e-12
        for _ in range(50):  # no other heights that are far enough apart are nearer
            other = np.sort(found + rng.normal(0, 0.03, 5))
            if np.diff(other).min() >= 0.1:
                assert ((other - wanted) ** 2).sum() >= ((found - wanted) ** 2).sum() - 1e-12


def test_rows_that_speak_for_all_trainings():
    of = {"method": "ppo", "step": 8, "n": 1, "metric": "gold"}
    both = [Row(seed=0, value=1.0, ci_low=0.0, ci_high=2.0, **of), Row(seed=1, value=3.0, ci_low=2.0, ci_high=4.0, **of)]
    over_all = Row(seed=None, value=2.0, ci_low=-5.0, ci_high=9.0, **of)
    assert over_seeds([*both, over_all]) == [over_all]
    assert over_seeds(both[:1]) == both[:1]
    (mean,) = over_seeds(both)
    assert (mean.value, mean.seed, mean.ci_low, mean.ci_high) == (2.0, None, None, None)


def test_settings_are_in_the_order_of_their_numbers(folders):
    rows = loaded("frontier", folders["frontier"]).rows
    assert settings(rows, "ppo") == [f"kl_coef={value}" for value in (0.02, 0.05, 0.1, 0.2, 0.5)]
    assert spread(settings(rows, "ppo"), 3) == ["kl_coef=0.02", "kl_coef=0.1", "kl_coef=0.5"]
    kl, gold = over_training(rows, "ppo", "gold", "kl_coef=0.02")
    assert kl.value[0] == 0
    assert gold.value[0] == select(rows, method="base", metric="gold")[0].value
    assert kl.at.tolist() == [0, 4, 8, 16]


def test_swept_policies_that_end_at_one_kl_are_compared_over_their_training(folders):
    results = loaded("frontier", folders["frontier"])
    at_equal_kl = [{"kl": 1.0, "value": 0.3, "low": 0.2, "high": 0.4}]
    compared = {
        f"ppo {choice}": {"best_of_n_minus_method_at_equal_kl": at_equal_kl} for choice in settings(results.rows, "ppo")
    }
    found = differences(replace(results, findings={**results.findings, "equal_kl": {"ppo": []}, "compared": compared}))
    assert [name for _, name in found] == [f"PPO, kl_coef {value:g}" for value in (0.02, 0.05, 0.1, 0.2, 0.5)]
    assert list(found.values()) == [at_equal_kl] * 5


def test_every_contender_has_its_bar():
    names = [f"contender {k}" for k in range(8)]  # the most that the benchmark has
    speeds = [Speed("sampling", 8, name, 1.0, 1.0, 1.0, "tokens/s", 1.0) for name in names]
    with style.styled():
        bars = [each for each in SPEED.figure(speeds).axes[0].containers if isinstance(each, BarContainer)]
    assert [each.get_label() for each in bars] == names


def test_captions_hold_the_numbers(folders):
    told = {key: FIGURES[key[0]][key[1]].caption(loaded(key[0], folders[key[0]])) for key in ALL}
    assert "Its training pays off after 41,000 [35,000, 60,000] requests" in told["frontier", "cost"]
    assert "PPO over kl_coef: 0.30 [0.20, 0.40] at 0.5" in told["frontier", "equal_kl"]
    assert "over training seeds (PPO 3, " in told["frontier", "reward_vs_n"]
    assert "bon, fp32 runs 2.0 times TRL 0.24, fp32 at n = 1; bon, fp32 runs 5.0 times" in told["benchmark", "speed"]
    assert "gold changes by -0.30 [-0.40, -0.20]" in told["weak_proxy", "overoptimisation"]
    assert "differs by 0.60 [0.55, 0.65], which 35% of studies with 16 prompts" in told["notebook", "notebook"]
    for caption in told.values():
        assert not {"nan", "inf"} & set(caption.replace("[", " ").replace(",", " ").replace("]", " ").split())


@pytest.mark.parametrize("width", [style.SINGLE_COLUMN, style.DOUBLE_COLUMN])
def test_the_legend_stays_on_the_page(width):
    names = ["PPO over kl_coef", "RLOO over training", "GRPO over training", "best-of-n SFT over training"]
    with style.styled():
        figure = page([lambda axes: [axes.plot([0, 1], label=name) for name in names]], width=width)
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
