"""Best-of-n sampling: pools of scored candidates, unbiased estimates for every n, KL and intervals.

The core needs torch, transformers, numpy and tqdm; saving pools needs pyarrow, stopping and some intervals need scipy.
"""

from bon.adaptive.optimal_stopping import draw_while_worth
from bon.adaptive.speculative_rejection import speculative_rejection
from bon.candidates import Candidates
from bon.generation.generate import generate_candidates
from bon.rewards import ClassifierReward, RewardError, score_candidates
from bon.sampler import BestOfNSampler, LengthSampler

__version__ = "0.1.0"

__all__ = [
    "BestOfNSampler",
    "Candidates",
    "ClassifierReward",
    "LengthSampler",
    "RewardError",
    "draw_while_worth",
    "generate_candidates",
    "score_candidates",
    "speculative_rejection",
]
