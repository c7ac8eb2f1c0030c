"""What all selection rules share: a pool in, a probability for every candidate out, one of them drawn if it must be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bon.candidates import Candidates


def scores_of(candidates: Candidates, by: str) -> NDArray[np.float64]:
    """The score column `by` [P, N].

    Raises:
        ValueError: the pool has no such column (its columns are listed), or some candidates have no score in it.
    """
    if by not in candidates.scores:
        raise ValueError(f"the pool has no score {by!r}; it has {', '.join(candidates.scores) or 'none: score it first'}")
    scores = candidates.scores[by]
    absent = np.isnan(scores)
    if absent.any():
        prompt = int(absent.any(axis=1).argmax())
        raise ValueError(
            f"{absent.sum()} candidates have no score {by!r}, the first of prompt {prompt}: `pool.select` and a rule's `law` "
            "and `mean` leave them out, this does not"
        )
    return scores


def excluded(candidates: Candidates, columns: Sequence[str]) -> NDArray[np.bool_]:
    """Whether a candidate has no score (NaN) in one of these columns, and so takes no part in a selection: [P, N].

    Raises:
        ValueError: a prompt has no other candidates.
    """
    out = np.zeros(candidates.texts.shape, dtype=bool)
    for name in columns:
        if name in candidates.scores:
            out |= np.isnan(candidates.scores[name])
    if out.all(axis=1).any():
        prompt = int(out.all(axis=1).argmax())
        raise ValueError(
            f"no candidate of prompt {prompt} ({candidates.prompts[prompt][:40]!r}) has a score in {', '.join(columns)}: "
            "nothing can be selected"
        )
    return out


class SelectionRule(ABC):
    """A rule that returns one candidate a prompt, each with a known probability.

    `pool.select(rule, rng)` applies it; `rule.mean(pool, "gold")` is what it returns on average, without drawing. A candidate
    without a score (NaN) takes no part: the rule then sees a pool of the others.
    """

    @abstractmethod
    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """Probability that each candidate is the one returned, given a pool with all scores: [P, N], rows sum to 1."""

    def columns(self) -> tuple[str, ...]:
        """The scores that the rule reads: the one that it selects `by`, unless a rule says otherwise."""
        return (self.by,) if hasattr(self, "by") else ()

    def law(self, candidates: Candidates) -> NDArray[np.float64]:
        """`probabilities` of each candidate, those without a score left out: [P, N], rows sum to 1.

        Raises:
            ValueError: a prompt has no candidate with a score, what `probabilities` refuses, or probabilities that are none.
        """
        out = excluded(candidates, self.columns())
        if not out.any():
            return self._checked(candidates)
        law = np.zeros(out.shape)
        kept = (~out).sum(axis=1)
        order = np.argsort(out, axis=1, kind="stable")  # those that take part come first, as they were drawn
        for count in np.unique(kept):
            rows = np.flatnonzero(kept == count)
            places = order[rows, :count]
            law[rows[:, None], places] = self._checked(candidates.rows(rows).take(places))
        return law

    def _checked(self, candidates: Candidates) -> NDArray[np.float64]:
        """`probabilities`, which anybody's subclass may get wrong."""
        probabilities = np.asarray(self.probabilities(candidates), dtype=np.float64)
        if probabilities.shape != candidates.texts.shape:
            raise ValueError(
                f"{self} gave probabilities of shape {probabilities.shape} for a pool of {candidates.texts.shape}"
            )
        good = (probabilities >= 0).all(axis=1) & np.isclose(probabilities.sum(axis=1), 1.0, rtol=0, atol=1e-6)
        if not good.all():
            prompt = int((~good).argmax())
            raise ValueError(
                f"{self} gave probabilities for prompt {prompt} that are negative, NaN, or sum to "
                f"{probabilities[prompt].sum():g} instead of 1"
            )
        return probabilities

    def indices(self, candidates: Candidates, rng: np.random.Generator | None = None) -> NDArray[np.int_]:
        """The candidate chosen for each prompt [P, 1], one uniform number a prompt; none where the choice is certain.

        Raises:
            ValueError: the choice is random and there is no `rng`.
        """
        probabilities = self.law(candidates)
        if (probabilities.max(axis=1) == 1.0).all():
            return probabilities.argmax(axis=1)[:, None]
        if rng is None:
            raise ValueError(f"{self} chooses at random: pass rng=numpy.random.default_rng(seed)")
        cumulated = probabilities.cumsum(axis=1)
        target = rng.random(len(cumulated)) * cumulated[:, -1]
        # Rounding may put the target on the very end, which no candidate reaches.
        target = np.minimum(target, np.nextafter(cumulated[:, -1], 0.0))
        return (cumulated <= target[:, None]).sum(axis=1)[:, None]

    def mean(self, candidates: Candidates, of: str = "proxy") -> NDArray[np.float64]:
        """Expected score `of` of the candidate returned, for each prompt: [P].

        Raises:
            ValueError: there is no such score, or a candidate that may be returned lacks it.
        """
        law = self.law(candidates)
        values = np.where(law > 0, candidates.scores[of], 0.0) if of in candidates.scores else scores_of(candidates, of)
        if np.isnan(values).any():
            scores_of(candidates, of)
        return (law * values).sum(axis=1)


def one_hot(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability 1 on the greatest value of each row [P, N]; of equals on the one drawn first."""
    chosen = np.zeros(values.shape)
    chosen[np.arange(len(values)), values.argmax(axis=1)] = 1.0
    return chosen


def check_at_least(name: str, value: float, low: float, strictly: bool = False) -> None:
    """Refuse a parameter that is not finite, or below `low` (or equal to it, if `strictly`)."""
    if not np.isfinite(value) or value < low or (strictly and value == low):
        raise ValueError(f"{name} must be finite and {'>' if strictly else '>='} {low:g}, got {value}")
