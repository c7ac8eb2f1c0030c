"""KL divergence from the reference policy, in nats per response: of best-of-n, of its soft variants, of tuned policies."""

from typing import TYPE_CHECKING

from bon.kl.best_of_n import best_of_n_kl_beirami, best_of_n_kl_bound, best_of_n_kl_exact, best_of_n_kl_levels
from bon.lazy import lazily

if TYPE_CHECKING:
    from bon.kl.tuned import SequenceKL, sequence_kl
else:
    __getattr__, __dir__ = lazily(__name__, {"SequenceKL": "bon.kl.tuned", "sequence_kl": "bon.kl.tuned"})

__all__ = [
    "SequenceKL",
    "best_of_n_kl_beirami",
    "best_of_n_kl_bound",
    "best_of_n_kl_exact",
    "best_of_n_kl_levels",
    "sequence_kl",
]
