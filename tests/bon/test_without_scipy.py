"""The core works without scipy; what needs it says in one line what to install."""

import subprocess
import sys

import numpy as np
import pytest

from bon.adaptive.optimal_stopping import expected_improvement
from bon.estimators.diversity import self_similarity
from bon.intervals import bootstrap_mean, jackknife, seeds_mean
from bon.intervals.power import minimum_detectable_difference
from bon.tradeoffs.over_seeds import seeds_difference

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(3, 12))
NEEDS = {
    "self_similarity": lambda: self_similarity(np.ones((2, 2, 3), dtype=int), np.full((2, 2), 3), np.zeros((2, 2))),
    "jackknife": lambda: jackknife(0.5, VALUES[0]),
    "seeds_mean": lambda: seeds_mean(VALUES),
    "seeds_difference": lambda: seeds_difference(VALUES[0], VALUES),
    "minimum_detectable_difference": lambda: minimum_detectable_difference(VALUES[0]),
    "expected_improvement": lambda: expected_improvement(VALUES[0]),
}


@pytest.fixture
def without_scipy(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "scipy", None)


@pytest.mark.parametrize("name", NEEDS)
def test_what_needs_it_says_so(without_scipy, name):
    with pytest.raises(ModuleNotFoundError, match=r"^[a-z A-Z]+ need scipy: pip install scipy$"):
        NEEDS[name]()


@pytest.mark.parametrize("name", NEEDS)
def test_with_it_they_work(name):
    NEEDS[name]()


def test_bootstraps_do_without(without_scipy):
    interval = bootstrap_mean(VALUES[0], np.random.default_rng(0), resamples=200)
    assert interval.low < interval.value < interval.high


def test_importing_and_sampling_do_without():
    code = """
import sys
sys.modules.update(scipy=None, pyarrow=None)
import torch
from transformers import GPT2Config, GPT2LMHeadModel
import bon
assert all(getattr(bon, name) for name in bon.__all__)
import bon.adaptive.optimal_stopping, bon.estimators, bon.intervals, bon.kl
import bon.tradeoffs.frontier, bon.tradeoffs.over_seeds, bon.tradeoffs.overoptimisation
"""
    done = subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
