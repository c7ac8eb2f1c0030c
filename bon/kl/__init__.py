"""KL divergence from the reference policy, in nats per response: of best-of-n, of its soft variants, of tuned policies."""

from bon.kl.best_of_n import best_of_n_kl_beirami, best_of_n_kl_bound, best_of_n_kl_exact, best_of_n_kl_levels
from bon.kl.tuned import SequenceKL, sequence_kl

__all__ = [
    "SequenceKL",
    "best_of_n_kl_beirami",
    "best_of_n_kl_bound",
    "best_of_n_kl_exact",
    "best_of_n_kl_levels",
    "sequence_kl",
]
