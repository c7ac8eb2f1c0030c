"""Every trained baseline goes through the whole comparison: the metrics of PPO, its rows, its place in table and figures."""

import pytest

from suite.comparison.compare import compare
from suite.comparison.setup import prepare, training_task
from suite.config.baselines import BASELINES, TRAINERS
from suite.figures.run_figures import draw_figures
from suite.metrics.naming import title
from suite.metrics.rows import select
from suite.metrics.samples import sample_table
from suite.metrics.series import on_line, tuned_methods
from suite.reports.terminal import next_steps, plan, table, verdict


@pytest.fixture
def compared(configure, fewer_reviews):
    def run(baseline):
        comparison = prepare(configure("experiment=smoke", f"baseline={baseline}", "resamples=100"))
        return comparison, compare(comparison)

    return run


@pytest.mark.parametrize("baseline", ["rloo", "grpo", "bon_sft"])
def test_a_baseline_on_the_same_axes(compared, baseline, tmp_path):
    comparison, outcome = compared(baseline)
    methods = {row.method for row in outcome.rows}
    assert methods == {"base", "best_of_n", baseline, f"{baseline}+best_of_n", "optimum"}
    last = select(outcome.rows, method=baseline, step=2, n=1)
    base = select(outcome.rows, method="base", n=1)
    shares = {"share_of_optimum", "share_of_optimum_at_most", "share_of_optimum_at_least"}
    assert len(shares & {row.metric for row in last}) == 1  # how well a small pool knows the optimum depends on its draws
    assert {row.metric for row in last} - shares == {row.metric for row in base} | {
        "beta",
        "objective",
        "training_tokens",
        "training_reward_tokens",
        "training_flops",
        "training_seconds",
    }
    assert {row.kl_kind for row in last if row.metric == "kl"} == {"monte_carlo", "rao_blackwell", "bound"}
    assert {row.step for row in outcome.rows if row.method == baseline} == {1, 2}
    (tokens,) = select(last, metric="training_tokens")
    assert tokens.value == outcome.training.tokens > 0

    shown = table(outcome, 4)
    for name in (title(baseline), f"{title(baseline)} + best-of-4"):
        assert any(line.startswith(f"{name}  ") for line in shown.splitlines())
    assert f"Gold reward of best-of-4 minus {title(baseline)}, paired over 16 prompts" in verdict(outcome)
    assert f"best-of-4 against {title(baseline)} (" in plan(comparison, "off")
    assert all(len(line) == 7 for line in sample_table(outcome.pools, 4, 3))
    figures = draw_figures(outcome.rows, outcome.pools, 4, tmp_path / "figures")
    assert all(path.is_file() for path in figures)


def test_a_training_gives_policies_beside_its_own(configure, fewer_reviews, tmp_path):
    keys = ("baseline.line_steps=[0.5,2]", "baseline.ema_decay=0.5")
    comparison = prepare(configure("experiment=smoke", "baseline=bon_sft", "resamples=100", *keys))
    outcome = compare(comparison)
    kl = {(row.method, row.setting): row.value for row in outcome.rows
          if row.method.startswith("bon_sft") and row.n == 1 and row.kl_kind == "rao_blackwell" and row.step == 2}  # fmt: skip
    assert kl.keys() == {
        ("bon_sft", ""), ("bon_sft_line", "step=0.5"), ("bon_sft_line", "step=2"), ("bon_sft_ema", "")
    }  # fmt: skip
    # Twice as far on the line is further from the base policy, half as far nearer; so is an average that begins there.
    assert kl["bon_sft_line", "step=0.5"] < kl["bon_sft", ""] < kl["bon_sft_line", "step=2"]
    assert kl["bon_sft_ema", ""] < kl["bon_sft", ""]
    # They are on the axes of the figure, and none of the methods that tables and sentences speak of.
    assert tuned_methods(outcome.rows) == ["bon_sft"]
    at, values = on_line(outcome.rows, "bon_sft", "proxy")
    assert at.value.tolist() == sorted([0.0, *(kl[key] for key in kl if key[0] != "bon_sft_ema")])
    assert len(values.value) == 4
    assert all(path.is_file() for path in draw_figures(outcome.rows, outcome.pools, 4, tmp_path / "figures"))
    # Neither key makes another training of it, but for the average, which is kept in the checkpoints.
    other = prepare(configure("experiment=smoke", "baseline=bon_sft", "baseline.line_steps=[3]"))
    plain = prepare(configure("experiment=smoke", "baseline=bon_sft"))
    assert training_task(other, tmp_path).folder == training_task(plain, tmp_path).folder
    assert training_task(comparison, tmp_path).folder != training_task(plain, tmp_path).folder


def test_training_and_evaluation_prompts_come_from_different_reviews(configure, fewer_reviews, fewer_splits):
    comparison = prepare(configure("experiment=smoke", "baseline=rloo"))
    texts = {name: {review.text for review in fewer_splits[name]} for name in ("ppo", "evaluation")}
    assert not texts["ppo"] & texts["evaluation"]
    decode = comparison.policy.tokenizer.decode
    for name, prompts in (("ppo", comparison.training_prompts), ("evaluation", comparison.evaluation_prompts)):
        starts = tuple(decode(ids) for ids in prompts[:20])
        assert all(any(text.startswith(start) for text in texts[name]) for start in starts)


@pytest.mark.parametrize("baseline", BASELINES)
def test_what_is_proposed_next_is_allowed(configure, baseline):
    told = next_steps(configure(f"baseline={baseline}"))
    words = told.removeprefix("python experiments/run.py ").removesuffix(", or --help").split(", or ")
    assert len(words) == 3
    for word in words:
        configure(f"baseline={baseline}", *([] if word.startswith("baseline=") else [word])).check()


def test_every_trainer_has_settings():
    assert {"none", *TRAINERS} == set(BASELINES)
