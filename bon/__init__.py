"""Best-of-n sampling: pools of scored candidates, unbiased estimates for every n, KL and intervals.

The core needs torch, transformers, numpy and tqdm; saving pools needs pyarrow, stopping and some intervals need scipy.
What is named here is imported when it is first used: statistics alone load neither torch nor transformers.
"""

from typing import TYPE_CHECKING

from bon.lazy import lazily

if TYPE_CHECKING:
    from bon.adaptive.optimal_stopping import draw_while_worth
    from bon.adaptive.speculative_rejection import speculative_rejection
    from bon.candidates import Candidates
    from bon.generation.generate import generate_candidates
    from bon.rewards import ClassifierReward, RewardError, score_candidates
    from bon.sampler import BestOfNSampler, LengthSampler
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "BestOfNSampler": "bon.sampler",
            "Candidates": "bon.candidates",
            "ClassifierReward": "bon.rewards",
            "LengthSampler": "bon.sampler",
            "RewardError": "bon.rewards",
            "draw_while_worth": "bon.adaptive.optimal_stopping",
            "generate_candidates": "bon.generation.generate",
            "score_candidates": "bon.rewards",
            "speculative_rejection": "bon.adaptive.speculative_rejection",
        },
    )

__version__ = "0.2.0"

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
