"""A toy baseline, a toy metric and a toy figure from outside the package go through a comparison as the suite's own do."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
from hydra.core.config_store import ConfigStore

from bon.estimators import best_of_n_mean
from suite.comparison.compare import compare
from suite.comparison.setup import prepare
from suite.config.baselines import BASELINES, TRAINERS, BaselineConfig
from suite.config.registry import add_baseline
from suite.figures.page import StudyFigure, page, save
from suite.figures.studies import FIGURES, add_figure, figures_of
from suite.figures.style import styled
from suite.metrics import evaluation
from suite.metrics.evaluation import add_metric
from suite.metrics.naming import axis_title, title
from suite.metrics.registry import MEASURES, Metric
from suite.metrics.results import Results
from suite.metrics.rows import select
from suite.metrics.text import number
from suite.reports.terminal import table

TRAINER = '''
import copy

import torch

from suite.baselines.interface import Training

def train(task):
    """A policy a little surer than the base policy."""
    folder = task.folder / "checkpoint-1"
    model = copy.deepcopy(task.policy.model)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(1.1)
    model.save_pretrained(folder)
    task.policy.tokenizer.save_pretrained(folder)
    return Training({1: folder}, tokens=task.config.strength)
'''


@dataclass
class ToyConfig(BaselineConfig):
    name: str = "toy"
    updates: int = 1
    strength: int = 3


def tokens(pool):
    return best_of_n_mean(pool.scores["proxy"], pool.lengths)


def draw(axes, results):
    rows = select(results.rows, method="best_of_n", metric="tokens")
    axes.plot([row.n for row in rows], [row.value for row in rows], label=title("best_of_n"))
    axes.set_ylabel(axis_title("tokens"))


TOY = StudyFigure(
    lambda results: page([partial(draw, results=results)]),
    lambda results: f"{len(select(results.rows, metric='tokens'))} points.",
    studies=("frontier",),
    place=9,
)


@pytest.fixture
def extended(monkeypatch, tmp_path, compose_config):
    (tmp_path / "toy_trainer.py").write_text(TRAINER)
    monkeypatch.syspath_prepend(tmp_path)
    with ExitStack() as registries:
        for registry in (BASELINES, TRAINERS, MEASURES, evaluation._ADDED, FIGURES["frontier"]):
            registries.enter_context(patch.dict(registry))
        add_baseline("toy", ToyConfig, "toy_trainer")
        add_metric("tokens", Metric("tokens of a response, again", "tokens", title="tokens", digits=1), tokens)
        add_figure("toy", TOY)
        yield
    del ConfigStore.instance().repo["baseline"]["toy.yaml"]
    sys.modules.pop("toy_trainer", None)


def test_a_baseline_a_metric_and_a_figure(extended, configure, fewer_reviews, tmp_path):
    config = configure("experiment=smoke", "baseline=toy", "baseline.strength=5", "resamples=100")
    config.check()
    outcome = compare(prepare(config))

    assert {row.method for row in outcome.rows} == {"base", "best_of_n", "toy", "toy+best_of_n", "optimum"}
    assert select(outcome.rows, method="toy", metric="training_tokens")[0].value == 5
    assert "TOY + best-of-4" in table(outcome, 4)

    mine, known = (select(outcome.rows, metric=metric) for metric in ("tokens", "length"))
    at_the_end = [row for row in known if row.step in (None, 1)]
    assert np.array_equal([row.value for row in mine], [row.value for row in at_the_end])
    assert number(mine[0], interval=False) == f"{mine[0].value:.1f}"

    results = Results.of("frontier", outcome.rows, {})
    found = figures_of("frontier", results)
    assert list(found)[-1] == "toy"
    assert found["toy"].caption(results) == f"{len(mine)} points."
    with styled():
        files = save(found["toy"].figure(results), "toy", tmp_path / "figures")
    assert all(file.stat().st_size for file in files)


@pytest.mark.parametrize(
    "add",
    [
        lambda: add_baseline("ppo", ToyConfig, "toy_trainer"),
        lambda: add_baseline("other", ToyConfig, "toy_trainer"),
        lambda: add_metric("length", Metric("", ""), tokens),
        lambda: add_metric("training_tokens", Metric("", ""), tokens),
        lambda: add_figure("share", TOY),
        lambda: add_figure("toy", TOY._replace(studies=("nowhere",))),
    ],
)
def test_what_is_there_already_is_not_replaced(add):
    with pytest.raises(ValueError, match=r"^name='.*there is such|^name='.*no study"):
        add()
