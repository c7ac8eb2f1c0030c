"""Every trained baseline goes through the whole comparison: the metrics of PPO, its rows, its place in table and figures."""

import pytest

from suite.comparison.compare import compare
from suite.comparison.setup import prepare
from suite.config.baselines import BASELINES, TRAINERS
from suite.figures.run_figures import draw_figures
from suite.metrics.naming import title
from suite.metrics.rows import select
from suite.metrics.samples import sample_table
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
    assert methods == {"base", "best_of_n", baseline, f"{baseline}+best_of_n"}
    last = select(outcome.rows, method=baseline, step=2, n=1)
    base = select(outcome.rows, method="base", n=1)
    assert {row.metric for row in last} == {row.metric for row in base} | {
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
