"""What packages of the core offer by name, and what importing them loads."""

import importlib
import subprocess
import sys

import pytest

#: Others call these names.
NAMES = {
    "bon": "BestOfNSampler Candidates ClassifierReward LengthSampler RewardError __version__ draw_while_worth"
    " generate_candidates score_candidates speculative_rejection",
    "bon.estimators": "best_of_n_mean best_of_n_quantile best_of_n_standard_error best_of_n_variance best_of_n_weights"
    " subset_weights win_rate win_rates",
    "bon.generation": "generate_candidates",
    "bon.intervals": "Difference Interval bootstrap_mean bootstrap_seeds_mean jackknife minimum_detectable_difference"
    " paired_difference required_prompts seeds_mean seeds_standard_error",
    "bon.kl": "SequenceKL best_of_n_kl_beirami best_of_n_kl_bound best_of_n_kl_exact best_of_n_kl_levels sequence_kl",
    "bon.selection": "BestOfN BestOfPoisson ChiSquaredBestOfN InferenceTimePessimism KLRegularizedBestOfN MBRBestOfN Medoid"
    " SelectionRule SoftBestOfN TopK best_of_n ranking same_tokens scores_of top_k unigram_cosine",
}


@pytest.mark.parametrize("package", NAMES)
def test_every_name_is_there_and_listed(package):
    module = importlib.import_module(package)
    names = set(NAMES[package].split())
    for name in names:
        assert getattr(module, name) is not None
    assert names - {"__version__"} <= set(module.__all__) <= set(dir(module))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'bon' has no attribute 'best_of_m'"):
        _ = importlib.import_module("bon").best_of_m


@pytest.mark.parametrize(
    "modules",
    [
        "bon",
        "bon.estimators, bon.estimators.diversity, bon.estimators.thresholds",
        "bon.intervals",
        "bon.tradeoffs.frontier, bon.tradeoffs.overoptimisation, bon.tradeoffs.over_seeds",
        "bon.kl, bon.kl.best_of_n, bon.kl.soft",
        "bon.candidates, bon.selection",
    ],
)
def test_statistics_load_no_engine(modules):
    heavy = ("torch", "transformers", "scipy", "pyarrow")
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
