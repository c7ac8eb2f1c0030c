"""What a cheaper way to choose saves and loses against plain best-of-n: the same prompts, the same random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bon.candidates import Candidates
from bon.selection import scores_of


@dataclass(frozen=True)
class Savings:
    """Tokens and reward of both ways, prompt by prompt: a paired comparison.

    Give `reward_lost` to `bon.intervals.bootstrap_mean` for an interval over prompts.

    Attributes:
        tokens: [P] response tokens drawn.
        full_tokens: [P] response tokens of plain best-of-n.
        reward: [P] score of the response returned.
        full_reward: [P] score of the response that plain best-of-n returns.
    """

    tokens: NDArray[np.int64]
    full_tokens: NDArray[np.int64]
    reward: NDArray[np.float64]
    full_reward: NDArray[np.float64]

    @classmethod
    def against(cls, full: Candidates, best: Candidates, tokens: NDArray[np.int64], by: str) -> Savings:
        """Compare the responses `best` [P, 1], for which `tokens` [P] were drawn, with the best of the pool `full`.

        Raises:
            ValueError: other prompts, or a pool without the score `by`.
        """
        if [list(ids) for ids in full.prompt_token_ids] != [list(ids) for ids in best.prompt_token_ids]:
            raise ValueError("the full pool has other prompts: a paired comparison needs the same, in the same order")
        return cls(
            tokens=tokens,
            full_tokens=full.lengths.sum(axis=1, dtype=np.int64),
            reward=scores_of(best, by)[:, 0],
            full_reward=scores_of(full, by).max(axis=1),
        )

    @property
    def tokens_saved(self) -> float:
        """Share of plain best-of-n's response tokens that were not drawn, over all prompts."""
        return 1.0 - float(self.tokens.sum() / self.full_tokens.sum())

    @property
    def reward_lost(self) -> NDArray[np.float64]:
        """Reward of plain best-of-n above this way's [P]; 0 where both return the same response."""
        return self.full_reward - self.reward

    def __str__(self) -> str:
        unharmed = (self.reward_lost == 0).mean()
        return (
            f"{self.tokens_saved:.1%} of the tokens saved; {self.reward_lost.mean():.4g} of {self.full_reward.mean():.4g} "
            f"reward lost a prompt, nothing on {unharmed:.1%} of the prompts"
        )
