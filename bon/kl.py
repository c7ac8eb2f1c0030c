"""KL divergence from the reference policy, in nats per response: of best-of-n, and of a tuned policy.

Kinds, as in the column `kl_kind`: `bound` (log n - (n-1)/n), `beirami`, `exact`, `monte_carlo`, `rao_blackwell`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.candidates import Candidates
from bon.likelihood import response_logits

Array = NDArray[np.float64]


def best_of_n_kl_bound(n: ArrayLike) -> Array:
    """log n - (n-1)/n: an upper bound on KL(best-of-n || reference), in nats.

    Stated by Stiennon et al. (2020) and Nakano et al. (2021) as the KL itself; Beirami et al. (2024, Theorem 1) prove that it
    is a bound, approached when no single response (and no tied score) has noticeable probability.

    Args:
        n: any shape, each at least 1.

    >>> best_of_n_kl_bound([1, 2, 8]).round(4).tolist()
    [0.0, 0.1931, 1.2044]
    """
    n = _checked_n(n)
    return np.log(n) - (n - 1) / n


def best_of_n_kl_beirami(n: ArrayLike, best_logprob: ArrayLike) -> Array:
    """Estimate of KL(best-of-n || reference) from the probability of the selected response (Beirami et al. 2024, Eq. 25).

    With eps the reference probability of the response that best-of-n returned:
    (1-eps)^n [log n + (n-1) log(1-eps) - (n-1)/n] + (1-(1-eps)^n) log((1-(1-eps)^n) / eps).
    Equals the bound as eps vanishes and 0 at eps = 1. Average it over prompts. Use it where single responses are likely
    (short responses, low temperature); where they are not it says what the bound says.

    Args:
        n: at least 1.
        best_logprob: log eps, natural logarithm, at most 0. Broadcasts against n.
    """
    n, logprob = np.broadcast_arrays(_checked_n(n), np.asarray(best_logprob, dtype=np.float64))
    if not (np.isfinite(logprob).all() and (logprob <= 1e-9).all()):
        raise ValueError("best_logprob must be finite and at most 0: it is the log of a probability")
    logprob = np.minimum(logprob, 0.0)
    eps = np.exp(logprob)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_miss = np.log1p(-eps)
        miss = np.exp(n * log_miss)
        hit = -np.expm1(n * log_miss)
        never = miss * (np.log(n) + (n - 1) * log_miss - (n - 1) / n)
        once = hit * (np.log(hit) - logprob)
    never = np.where(miss > 0, never, 0.0)
    return never + np.where(hit > 0, once, 0.0)


def best_of_n_kl_exact(probs: ArrayLike, scores: ArrayLike, n: int) -> float:
    """KL(best-of-n || reference) on finite support, ties in score broken uniformly among the tied draws.

    A score level r gets F(r)^n - F(r-)^n, shared within the level in proportion to the reference; only levels matter.

    Args:
        probs: [K] reference probabilities, summing to 1.
        scores: [K] rewards.
        n: at least 1.

    >>> round(best_of_n_kl_exact([0.5, 0.5], [0.0, 1.0], n=2), 4)    # 1/4 log(1/2) + 3/4 log(3/2)
    0.1308
    """
    probs, scores = np.asarray(probs, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if probs.ndim != 1 or probs.shape != scores.shape or not len(probs):
        raise ValueError(f"probs and scores must be [K] with K >= 1, got shapes {probs.shape} and {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if (probs < 0).any() or not np.isclose(probs.sum(), 1.0):
        raise ValueError(f"probs must be non-negative and sum to 1, got a sum of {probs.sum()}")
    n = int(_checked_n(n))
    _, level = np.unique(scores, return_inverse=True)
    mass = np.bincount(level, probs)
    mass = mass[mass > 0]
    above = np.minimum(np.cumsum(mass), 1.0)
    selected = np.diff(above**n, prepend=0.0)
    keep = selected > 0
    return float(max(0.0, np.sum(selected[keep] * np.log(selected[keep] / mass[keep]))))


@dataclass(frozen=True, eq=False)
class SequenceKL:
    """KL(policy || reference) of responses drawn from the policy; every field is [P, N], in nats per response.

    Attributes:
        logprobs: log-probability under the policy at the sampling temperature.
        ref_logprobs: the same under the reference.
        monte_carlo: the difference of the two: unbiased, of either sign.
        rao_blackwell: the KL of the next-token distributions summed along the response (Amini et al. 2025): the same mean,
            never negative, and far less variance between policies that are close (for distant ones whose responses end
            early it can have more).
    """

    logprobs: Array
    ref_logprobs: Array
    monte_carlo: Array
    rao_blackwell: Array


def sequence_kl(
    model: Any, ref_model: Any, candidates: Candidates, temperature: float | None = None, batch_tokens: int = 4096
) -> SequenceKL:
    """KL of a tuned policy from its reference, on responses that were drawn from the tuned policy.

    Response tokens only: the prompt and padding are left out, the end-of-sequence token is in. Both policies are
    warped by the temperature that the candidates were drawn at.

    Args:
        model: the policy that drew `candidates`.
        ref_model: the reference, with the same vocabulary.
        candidates: P prompts with N responses each.
        temperature: checked against what the candidates were drawn at, where they say.
        batch_tokens: prompt and response tokens in one forward pass.

    Raises:
        ValueError: the candidates were drawn at another temperature, or with top-k, top-p or the like, under which the
            KL of two policies can be infinite.
    """
    drawn_at = _sampling_temperature(candidates)
    if temperature is None:
        temperature = 1.0 if drawn_at is None else drawn_at
    elif drawn_at is not None and not np.isclose(temperature, drawn_at):
        raise ValueError(f"the candidates were drawn at temperature {drawn_at}, not {temperature}: compare policies at one")
    shape = candidates.lengths.shape
    logprobs, ref_logprobs, token_kl = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    pairs = zip(
        response_logits(model, candidates, batch_tokens), response_logits(ref_model, candidates, batch_tokens), strict=True
    )
    for (rows, ids, inside, logits), (_, _, _, ref_logits) in pairs:
        policy = (logits / temperature).log_softmax(-1)
        reference = (ref_logits / temperature).log_softmax(-1)
        inside = inside.double()
        at = ids[..., None]
        logprobs[rows] = (policy.gather(-1, at).squeeze(-1).double() * inside).sum(1).cpu().numpy()
        ref_logprobs[rows] = (reference.gather(-1, at).squeeze(-1).double() * inside).sum(1).cpu().numpy()
        divergence = (policy.exp() * (policy - reference)).sum(-1).double()
        token_kl[rows] = (divergence * inside).sum(1).cpu().numpy()
    return SequenceKL(logprobs, ref_logprobs, logprobs - ref_logprobs, np.maximum(token_kl, 0.0))


#: Sampling options that leave every next-token distribution as it is, or only warp it by a temperature.
_ALLOWED = {"do_sample", "temperature", "max_length", "max_new_tokens", "pad_token_id", "bos_token_id", "eos_token_id"}
#: Values at which an option has no effect.
_NEUTRAL = {"top_p": (1.0,), "typical_p": (1.0,), "repetition_penalty": (1.0,)}


def _sampling_temperature(candidates: Candidates) -> float | None:
    """The temperature that candidates were drawn at, 1 where none was set, None where they do not say."""
    sampling = candidates.metadata.get("sampling")
    if sampling is None:
        return None
    for name, value in sampling.items():
        neutral = not value or value in _NEUTRAL.get(name, ()) or (name == "min_length" and value < 0)
        if (name not in _ALLOWED and not neutral) or (name == "do_sample" and not value):
            raise ValueError(f"candidates drawn with {name}={value}: a KL of policies is defined here for temperature alone")
    temperature = sampling.get("temperature")
    return 1.0 if temperature is None else float(temperature)


def _checked_n(n: ArrayLike) -> Array:
    n = np.asarray(n, dtype=np.float64)
    if not (np.isfinite(n).all() and (n >= 1).all()):
        raise ValueError(f"n must be at least 1, got {n.min() if n.size else n}")
    return n


__all__ = ["SequenceKL", "best_of_n_kl_beirami", "best_of_n_kl_bound", "best_of_n_kl_exact", "sequence_kl"]
