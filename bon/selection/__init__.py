"""Which of the drawn candidates to return. Every rule reads one scored pool and draws nothing from the policy.

pool.select(BestOfN())                                           # the highest score
pool.select(SoftBestOfN(temperature=0.5), np.random.default_rng(0))
SoftBestOfN(temperature=0.5).mean(pool, "gold")                  # its expected gold score [P], without drawing
pool.first(16).select(...)                                       # from the first 16 candidates only
"""

from bon.selection.answers import Answer, Majority, MajorityOfTheBests, WeightedMajority, answers_of
from bon.selection.ensemble import Ensemble, LengthRegularizedBestOfN
from bon.selection.hard import BestOfN, TopK, best_of_n, ranking, top_k
from bon.selection.pessimism import ChiSquaredBestOfN, InferenceTimePessimism
from bon.selection.regularized import KLRegularizedBestOfN, MBRBestOfN, Medoid, same_tokens, unigram_cosine
from bon.selection.rule import SelectionRule, scores_of
from bon.selection.soft import BestOfPoisson, SoftBestOfN

__all__ = [
    "Answer",
    "BestOfN",
    "BestOfPoisson",
    "ChiSquaredBestOfN",
    "Ensemble",
    "InferenceTimePessimism",
    "KLRegularizedBestOfN",
    "LengthRegularizedBestOfN",
    "MBRBestOfN",
    "Majority",
    "MajorityOfTheBests",
    "Medoid",
    "SelectionRule",
    "SoftBestOfN",
    "TopK",
    "WeightedMajority",
    "answers_of",
    "best_of_n",
    "ranking",
    "same_tokens",
    "scores_of",
    "top_k",
    "unigram_cosine",
]
