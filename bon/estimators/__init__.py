"""Estimates for every n at once from one pool of N candidates per prompt: means, quantiles, win rates, variances.

And of answers that are right or wrong (`pass_at_k`, `pass_hat_k`, `majority_at_k`), and a win rate that length does not buy.
"""

from bon.estimators.answers import majority_at_k, pass_at_k, pass_hat_k
from bon.estimators.best_of_n import best_of_n_mean, best_of_n_quantile
from bon.estimators.length_control import length_controlled_win_rate
from bon.estimators.subsets import best_of_n_weights, subset_weights
from bon.estimators.variance import best_of_n_standard_error, best_of_n_variance
from bon.estimators.win_rates import win_rate, win_rates

__all__ = [
    "best_of_n_mean",
    "best_of_n_quantile",
    "best_of_n_standard_error",
    "best_of_n_variance",
    "best_of_n_weights",
    "length_controlled_win_rate",
    "majority_at_k",
    "pass_at_k",
    "pass_hat_k",
    "subset_weights",
    "win_rate",
    "win_rates",
]
