"""Rewards: functions that judge responses. What they read, how they are called, the forms of their answers; classifiers.

score_candidates(pool, proxy=reward)            # reward(texts), reward(prompts, responses) or reward(messages), async or not
ClassifierReward(model, tokenizer, "POSITIVE")  # the logit of a named class
"""

from bon.rewards.asking import Reward, checked_scores
from bon.rewards.classifier import ClassifierReward
from bon.rewards.errors import RewardError
from bon.rewards.loading import load_classifier
from bon.rewards.remote import RemoteReward
from bon.rewards.scoring import score_candidates
from bon.rewards.unfinished import Unfinished, without_unfinished

__all__ = [
    "ClassifierReward",
    "RemoteReward",
    "Reward",
    "RewardError",
    "Unfinished",
    "checked_scores",
    "load_classifier",
    "score_candidates",
    "without_unfinished",
]
