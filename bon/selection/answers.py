"""Responses with an answer in them (a number, a letter, a line of code): rules that let candidates vote for answers."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bon.candidates import Candidates
from bon.estimators.ranks import averaged, tie_groups
from bon.estimators.subsets import subset_weights
from bon.selection.rule import SelectionRule, check_at_least, one_hot, scores_of

#: The answer in a response: a function of its text, or a regular expression. None: there is none.
Answer = Callable[[str], Hashable] | str | re.Pattern[str]


def answers_of(candidates: Candidates, answer: Answer) -> NDArray[np.object_]:
    """The answer of every response [P, N], None where it has none.

    Args:
        candidates: the pool.
        answer: a function of the response's text that returns something hashable, or None; or a regular expression: its last
            match counts, of that the first group if it has one, without blanks around.

    Raises:
        ValueError: the expression is none, or the function returned something that is not hashable.

    >>> pool = Candidates.from_texts(["2 + 2?"], [["so it is 4", "5, no: 4", "who knows"]])
    >>> answers_of(pool, r"\\d+").tolist()
    [['4', '4', None]]
    """
    if isinstance(answer, str | re.Pattern):
        try:
            pattern = re.compile(answer)
        except re.error as error:
            raise ValueError(f"answer={answer!r} is no regular expression: {error}") from None
        find: Callable[[str], Hashable] = lambda text: _last(pattern, text)  # noqa: E731
    else:
        find = answer
    found = np.empty(candidates.texts.shape, dtype=object)
    known: dict[str, Hashable] = {}
    for cell, text in np.ndenumerate(candidates.texts):
        if text not in known:
            known[text] = find(text)
            try:
                hash(known[text])
            except TypeError:
                kind = type(known[text]).__name__
                raise ValueError(
                    f"answer returned a {kind}, which cannot be counted: return a text, a number or a tuple"
                ) from None
        found[cell] = known[text]
    return found


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    matches = list(pattern.finditer(text))
    if not matches:
        return None
    found = matches[-1].group(1 if pattern.groups else 0)
    return None if found is None else found.strip()


@dataclass(frozen=True)
class _Vote(SelectionRule):
    """Each candidate votes with a weight for its answer; of the answer with most votes, the best candidate is returned.

    Candidates without an answer have no vote, and are returned only where nobody has one.
    """

    answer: Answer

    @abstractmethod
    def weights(self, candidates: Candidates) -> NDArray[np.float64]:
        """The weight of each candidate's vote [P, N], >= 0."""

    @abstractmethod
    def standing(self, candidates: Candidates) -> NDArray[np.float64]:
        """Which of the candidates with the winning answer is returned: the greatest [P, N], of equals the one drawn first."""

    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """1 for the candidate chosen [P, N].

        Raises:
            ValueError: as `answers_of`, or there is no such score.
        """
        weights, standing = self.weights(candidates), self.standing(candidates)
        value = np.empty(weights.shape)
        for p, row in enumerate(answers_of(candidates, self.answer)):
            votes: dict[Hashable, float] = {}
            for one, weight in zip(row, weights[p].tolist(), strict=True):
                if one is not None:
                    votes[one] = votes.get(one, 0.0) + weight
            if not votes:
                value[p] = standing[p]
                continue
            # Sums in another order differ in their last digits; equals must stay equal, then the one met first wins.
            most = max(votes, key=lambda one: round(votes[one], 12))
            value[p] = np.where([one is not None and one == most for one in row], standing[p], -np.inf)
        return one_hot(value)


@dataclass(frozen=True)
class Majority(_Vote):
    """The first candidate with the most frequent answer, of equally frequent ones that drawn first: self-consistency.

    Source: Wang, Wei, Schuurmans, Le, Chi, Narang, Chowdhery and Zhou 2023, Self-consistency improves chain of thought
    reasoning in language models, ICLR (arXiv:2203.11171).

    Attributes:
        answer: as in `answers_of`. Reads no score.
    """

    def weights(self, candidates: Candidates) -> NDArray[np.float64]:
        """One vote each [P, N]."""
        return np.ones(candidates.texts.shape)

    def standing(self, candidates: Candidates) -> NDArray[np.float64]:
        """All alike [P, N]."""
        return np.zeros(candidates.texts.shape)


@dataclass(frozen=True)
class WeightedMajority(_Vote):
    """The best-scored candidate of the answer with the greatest sum of scores.

    Scores must be >= 0, as probabilities of being right are. Of logits and other rewards, `temperature` makes weights
    exp(score / temperature).

    Source: Li, Lin, Zhang, Fu, Chen, Lou and Chen 2023, Making language models better reasoners with step-aware verifier, ACL
    (arXiv:2206.02336); "best-of-N weighted" in Snell et al. 2024, arXiv:2408.03314.

    Attributes:
        answer: as in `answers_of`.
        temperature: > 0, in units of the score; None for scores that are weights already.
        by: the score.
    """

    temperature: float | None = None
    by: str = "proxy"

    def __post_init__(self) -> None:
        if self.temperature is not None:
            check_at_least("temperature", self.temperature, 0.0, strictly=True)

    def weights(self, candidates: Candidates) -> NDArray[np.float64]:
        """Scores, or exponentials of them, the greatest of a prompt being 1 [P, N].

        Raises:
            ValueError: a negative score and no temperature, or there is no such score.
        """
        scores = scores_of(candidates, self.by)
        if self.temperature is not None:
            return np.exp((scores - scores.max(axis=1, keepdims=True)) / self.temperature)
        if (scores < 0).any():
            raise ValueError(
                f"scores are weights of votes and cannot be negative, {self.by!r} has {scores.min():.4g}: give a temperature"
            )
        return scores

    def standing(self, candidates: Candidates) -> NDArray[np.float64]:
        """The scores [P, N]."""
        return scores_of(candidates, self.by)


@dataclass(frozen=True)
class MajorityOfTheBests(_Vote):
    """The best-scored candidate of the answer that best-of-m returns most often.

    Where the reward is imperfect the right answer is often what best-of-m returns most often, without being what it returns
    on one pool. The law of best-of-m is read off the pool: the i-th smallest of N scores is the best of C(i-1, m-1) of the
    C(N, m) subsets; ties share. No resampling is left to chance. m = 1 is `Majority`, m = N is hard best-of-n.

    Source: Rakhsha, Madan, Zhang, Farahmand and Khasahmadi 2025, Majority of the bests: improving best-of-N via bootstrapping,
    arXiv:2511.18630, which resamples with replacement and adapts m to the prompt.

    Attributes:
        answer: as in `answers_of`.
        m: candidates to choose from, 1..N; the square root of N, rounded, unless given.
        by: the score.
    """

    m: int | None = None
    by: str = "proxy"

    def weights(self, candidates: Candidates) -> NDArray[np.float64]:
        """Probability that each candidate is the best of a random m-subset [P, N].

        Raises:
            ValueError: m is not in 1..N, or there is no such score.
        """
        scores = scores_of(candidates, self.by)
        count = scores.shape[1]
        order = np.argsort(scores, axis=1, kind="stable")
        groups = tie_groups(np.take_along_axis(scores, order, axis=1))
        by_rank = subset_weights(count, round(math.sqrt(count)) if self.m is None else self.m)
        weights = np.empty(scores.shape)
        np.put_along_axis(weights, order, averaged(np.broadcast_to(by_rank, scores.shape), groups), axis=1)
        return weights

    def standing(self, candidates: Candidates) -> NDArray[np.float64]:
        """The scores [P, N]."""
        return scores_of(candidates, self.by)
