"""Reward against KL or cost: frontiers, the KL-regularized optimum, over-optimisation, and several training seeds."""

from bon.tradeoffs.best_n import BestN, best_n
from bon.tradeoffs.best_of_n_objective import best_of_n_objective
from bon.tradeoffs.optimum import Optimum, OptimumAtKL, kl_regularized_optimum, optimum_at, optimum_exact
from bon.tradeoffs.share_of_optimum import BestOfNShare, Share, best_of_n_share, objective_gained, share_of_optimum

__all__ = [
    "BestN",
    "BestOfNShare",
    "Optimum",
    "OptimumAtKL",
    "Share",
    "best_n",
    "best_of_n_objective",
    "best_of_n_share",
    "kl_regularized_optimum",
    "objective_gained",
    "optimum_at",
    "optimum_exact",
    "share_of_optimum",
]
