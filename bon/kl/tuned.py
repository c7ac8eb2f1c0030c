"""KL divergence of a tuned policy from its reference, in nats per response, from responses drawn from the tuned policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bon.candidates import Candidates
from bon.checks import positive
from bon.likelihood import reference_of, response_logits

Array = NDArray[np.float64]


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

    The estimate is the mean over everything; its standard error is over prompts, whose candidates are averaged first.
    """

    logprobs: Array
    ref_logprobs: Array
    monte_carlo: Array
    rao_blackwell: Array

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of the mean of `monte_carlo` over prompts.

        Raises:
            ValueError: fewer than 2 prompts.
        """
        return _error_over_prompts(self.monte_carlo)

    @property
    def rao_blackwell_error(self) -> float:
        """Standard error of the mean of `rao_blackwell` over prompts. Where prompts differ in KL, that spread stays in it.

        Raises:
            ValueError: fewer than 2 prompts.
        """
        return _error_over_prompts(self.rao_blackwell)


def sequence_kl(
    model: Any, ref_model: Any, candidates: Candidates, temperature: float | None = None, batch_tokens: int = 4096
) -> SequenceKL:
    """KL of a tuned policy from its reference, on responses that were drawn from the tuned policy.

    Response tokens only: the prompt and padding are left out, the end-of-sequence token is in. Both policies are
    warped by the temperature that the candidates were drawn at.

    Args:
        model: the policy that drew `candidates`.
        ref_model: the reference, with the same vocabulary; None, or the model that PEFT wrapped, for the policy with its
            adapter off.
        candidates: P prompts with N responses each.
        temperature: checked against what the candidates were drawn at, where they say.
        batch_tokens: prompt and response tokens in one forward pass.

    Raises:
        ValueError: the candidates were drawn at another temperature, or with top-k, top-p or the like, under which the
            KL of two policies can be infinite; policies of different vocabularies; no reference (see `reference_of`).
    """
    ref_model = reference_of(ref_model, model)
    drawn_at = _sampling_temperature(candidates)
    if temperature is None:
        temperature = 1.0 if drawn_at is None else drawn_at
    elif drawn_at is not None and not np.isclose(temperature, drawn_at):
        raise ValueError(f"the candidates were drawn at temperature {drawn_at}, not {temperature}: compare policies at one")
    temperature = positive("temperature", temperature)
    shape = candidates.lengths.shape
    logprobs, ref_logprobs, token_kl = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    pairs = zip(
        response_logits(model, candidates, batch_tokens), response_logits(ref_model, candidates, batch_tokens), strict=True
    )
    for (rows, ids, inside, logits), (_, _, _, ref_logits) in pairs:
        if logits.shape != ref_logits.shape:
            raise ValueError(
                f"policies of {logits.shape[-1]} and {ref_logits.shape[-1]} tokens have no KL: compare like with like"
            )
        policy = (logits / temperature).log_softmax(-1)
        reference = (ref_logits / temperature).log_softmax(-1)
        inside = inside.double()
        at = ids[..., None]
        logprobs[rows] = (policy.gather(-1, at).squeeze(-1).double() * inside).sum(1).cpu().numpy()
        ref_logprobs[rows] = (reference.gather(-1, at).squeeze(-1).double() * inside).sum(1).cpu().numpy()
        share = policy.exp()
        # A token that the policy never draws adds nothing, whatever the reference says of it.
        divergence = torch.where(share > 0, share * (policy - reference), 0.0).sum(-1).double()
        token_kl[rows] = (divergence * inside).sum(1).cpu().numpy()
    return SequenceKL(logprobs, ref_logprobs, logprobs - ref_logprobs, np.maximum(token_kl, 0.0))


def _error_over_prompts(values: Array) -> float:
    if len(values) < 2:
        raise ValueError(f"a standard error needs at least 2 prompts, got values of shape {values.shape}")
    return float(values.mean(1).std(ddof=1) / np.sqrt(len(values)))


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
