"""Rules that take a response's standing among the others into account: its probability, or its likeness to the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bon.candidates import Candidates
from bon.selection.rule import SelectionRule, check_at_least, one_hot, scores_of

#: Token ids of N responses -> how alike each two are [N, N], symmetric; larger is more alike.
Similarity = Callable[[Sequence[Sequence[int]]], NDArray[np.float64]]


@dataclass(frozen=True)
class KLRegularizedBestOfN(SelectionRule):
    """The candidate with the highest r + coefficient * log pi_ref(y | x), of equals the one drawn first.

    A policy that always returns y has KL -log pi_ref(y | x) to the reference, so this is r - coefficient * KL
    (RBoN-KL in Jinnai et al. 2024). Summed log-probabilities fall with length: it prefers short responses.

    Source: Jinnai, Morimura, Ariu and Abe 2024, Regularized best-of-N sampling to mitigate reward hacking for language model
    alignment, arXiv:2404.01054, first version; log-probabilities as in its code (CyberAgentAILab/regularized-bon).

    Attributes:
        coefficient: >= 0, score a nat; 0 is hard best-of-n.
        reference: which column is log pi_ref: the distribution drawn from ("logprobs"), the same model without warping
            ("raw_logprobs"), or the reference policy of a tuned one ("ref_logprobs").
        by: the score that selects.
    """

    coefficient: float
    reference: Literal["logprobs", "raw_logprobs", "ref_logprobs"] = "logprobs"
    by: str = "proxy"

    def __post_init__(self) -> None:
        check_at_least("coefficient", self.coefficient, 0.0)
        if self.reference not in ("logprobs", "raw_logprobs", "ref_logprobs"):
            raise ValueError(f"reference must be logprobs, raw_logprobs or ref_logprobs, got {self.reference!r}")

    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """1 for the candidate chosen [P, N].

        Raises:
            ValueError: the pool has no such score, or no `ref_logprobs`.
        """
        logprobs = getattr(candidates, self.reference)
        if logprobs is None:
            raise ValueError("the pool has no ref_logprobs: add them by with_ref_logprobs, or choose another reference")
        return one_hot(scores_of(candidates, self.by) + self.coefficient * logprobs)


def unigram_cosine(responses: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Cosine of the token counts of each two responses [N, N]: 1 for the same tokens in any order, 0 for none in common.

    >>> unigram_cosine([[5, 6], [6, 5], [7]]).round(6).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    columns = {token: column for column, token in enumerate(sorted({token for row in responses for token in row}))}
    counts = np.zeros((len(responses), len(columns)))
    for row, response in enumerate(responses):
        for token, times in Counter(response).items():
            counts[row, columns[token]] = times
    counts /= np.linalg.norm(counts, axis=1, keepdims=True)
    return counts @ counts.T


def same_tokens(responses: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """1 where two responses are the same, else 0 [N, N]: likeness by majority vote.

    >>> same_tokens([[5], [6], [5]]).tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    names = {response: name for name, response in enumerate(dict.fromkeys(tuple(row) for row in responses))}
    labels = np.array([names[tuple(row)] for row in responses])
    return (labels[:, None] == labels[None]).astype(np.float64)


@dataclass(frozen=True)
class Medoid(SelectionRule):
    """The candidate most like all candidates of its prompt: the highest mean similarity, of equals the one drawn first.

    Minimum Bayes risk decoding with the similarity as utility (Eikema and Aziz 2022). With `same_tokens` it is the majority
    vote of self-consistency (Wang et al. 2023) on whole responses. Reads no score. N^2 similarities a prompt.

    Attributes:
        similarity: token ids of N responses -> [N, N].
    """

    similarity: Similarity = unigram_cosine

    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """1 for the candidate chosen [P, N].

        Raises:
            ValueError: `similarity` returned something that is not [N, N] and finite.
        """
        return one_hot(mean_similarity(candidates, self.similarity))


@dataclass(frozen=True)
class MBRBestOfN(SelectionRule):
    """The candidate with the highest r + coefficient * mean similarity to the pool, of equals the one drawn first.

    The mean similarity is minus a Wasserstein distance to the policy (with 1 - similarity as cost), so this keeps near the
    policy as `KLRegularizedBestOfN` does, without its taste for short responses. Jinnai et al. take the cosine of sentence
    embeddings; the default here is that of token counts, which needs no further model. N^2 similarities a prompt.

    Source: Jinnai, Morimura, Ariu and Abe 2025, Regularized best-of-N sampling with minimum Bayes risk objective for language
    model alignment, NAACL (arXiv:2404.01054).

    Attributes:
        coefficient: >= 0, score for a similarity of 1; 0 is hard best-of-n.
        similarity: token ids of N responses -> [N, N].
        by: the score that selects.
    """

    coefficient: float
    similarity: Similarity = unigram_cosine
    by: str = "proxy"

    def __post_init__(self) -> None:
        check_at_least("coefficient", self.coefficient, 0.0)

    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """1 for the candidate chosen [P, N].

        Raises:
            ValueError: as `Medoid`, or there is no such score.
        """
        scores = scores_of(candidates, self.by)
        return one_hot(scores + self.coefficient * mean_similarity(candidates, self.similarity))


def mean_similarity(candidates: Candidates, similarity: Similarity) -> NDArray[np.float64]:
    """Mean similarity of each response to all of its prompt, itself among them: [P, N]."""
    means = np.empty(candidates.lengths.shape)
    for p, (rows, lengths) in enumerate(zip(candidates.token_ids, candidates.lengths, strict=True)):
        alike = np.asarray(similarity([row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]))
        if alike.shape != (len(rows), len(rows)) or not np.isfinite(alike).all():
            raise ValueError(f"similarity must return finite numbers [{len(rows)}, {len(rows)}], got shape {alike.shape}")
        means[p] = alike.mean(axis=1)
    # Sums in another order differ in their last digits; equals must stay equal.
    return means.round(12)
