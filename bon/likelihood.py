"""Log-probabilities of responses that are already there, under any model: response tokens only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bon.candidates import Candidates
from bon.checks import positive
from bon.model_facts import device_of, takes, usable_positions, vocabulary_size
from bon.model_view import has_adapters, view_of
from bon.wrappers import is_adapted, unwrapped

_BATCH_TOKENS = 4096
#: Logits in one batch, in numbers: 256 MiB in single precision. Whoever reads them makes several copies.
_BATCH_LOGITS = 1 << 26


def response_logits(
    model: Any, candidates: Candidates, batch_tokens: int = _BATCH_TOKENS
) -> Iterator[tuple[tuple[NDArray[np.int_], NDArray[np.int_]], torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The model's logits at every response token, batch by batch.

    Prompts of one length share a batch, so nothing is padded in front of a response.

    Yields:
        Index of the rows in [P, N] (a pair of arrays [B]), token ids [B, T], which of them belong to the response [B, T]
        (padding is False, the end-of-sequence token True), and logits [B, T, V] in single precision.
    """
    model = view_of(unwrapped(model))
    _check_fits(model, candidates)
    device = device_of(model)
    prompt_lengths = np.array([len(ids) for ids in candidates.prompt_token_ids])
    keeps = takes(model, "logits_to_keep")
    steps = candidates.token_ids.shape[2]
    most = _BATCH_LOGITS // ((vocabulary_size(model) or 1) * (steps + 1))
    for width in np.unique(prompt_lengths):
        of_width = np.flatnonzero(prompt_lengths == width)
        prompts = np.repeat(of_width, candidates.num_candidates)
        columns = np.tile(np.arange(candidates.num_candidates), len(of_width))
        size = max(1, min(most, batch_tokens // (int(width) + steps)))
        for begin in range(0, len(prompts), size):
            rows = (prompts[begin : begin + size], columns[begin : begin + size])
            inside = torch.from_numpy(np.arange(steps) < candidates.lengths[rows][:, None]).to(device)
            ids = torch.from_numpy(candidates.token_ids[rows].astype(np.int64)).to(device)
            prompt = torch.tensor([list(candidates.prompt_token_ids[p]) for p in rows[0]], device=device)
            keep = {"logits_to_keep": steps + 1} if keeps else {}
            # The generator is suspended outside the guard: whoever reads two of them in turns keeps his own mode.
            with torch.inference_mode():
                output = model(
                    input_ids=torch.cat([prompt, ids], 1),
                    attention_mask=torch.cat([torch.ones_like(prompt), inside.long()], 1),
                    **keep,
                )
                logits = output.logits[:, -steps - 1 : -1].float()
            yield rows, ids, inside, logits


def sequence_logprobs(
    model: Any, candidates: Candidates, temperature: float = 1.0, batch_tokens: int = _BATCH_TOKENS
) -> NDArray[np.float64]:
    """Log-probability of every response under `model` at `temperature`, summed over response tokens, in nats: [P, N]."""
    temperature = positive("temperature", temperature)
    total = np.zeros(candidates.lengths.shape)
    for rows, ids, inside, logits in response_logits(model, candidates, batch_tokens):
        logprobs = (logits / temperature).log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
        total[rows] = torch.where(inside, logprobs, 0.0).double().sum(1).cpu().numpy()
    return total


def reference_of(ref_model: Any, policy: Any) -> Any:
    """Return the reference of a policy, to be called.

    A policy with an adapter has its reference inside: None means the policy with its adapter off, and so does the bare model
    that PEFT wrapped, which has held the adapter in its layers since then.

    Args:
        ref_model: the reference, or None.
        policy: the tuned policy.

    Raises:
        ValueError: None, for a policy without an adapter; or an adapter that is merged into the weights.
    """
    if ref_model is None:
        inside = unwrapped(policy)
        if not has_adapters(inside):
            raise ValueError("the policy has no adapter to switch off: pass its reference as ref_model")
        return view_of(inside, adapters=False)
    reference = unwrapped(ref_model)
    # Adapters that transformers loaded by itself belong to the model.
    given_bare = not is_adapted(ref_model) and not getattr(reference, "_hf_peft_config_loaded", False)
    return view_of(reference, adapters=not (given_bare and has_adapters(reference)))


def _check_fits(model: Any, candidates: Candidates) -> None:
    """Refuse token ids that the model does not have, and texts that are longer than it has positions."""
    inside = np.arange(candidates.token_ids.shape[2]) < candidates.lengths[..., None]
    largest = max(
        candidates.token_ids[inside].max(initial=0), max((max(ids) for ids in candidates.prompt_token_ids), default=0)
    )
    known, room = vocabulary_size(model), usable_positions(model)
    if known is not None and largest >= known:
        raise ValueError(f"the pool holds token id {largest}, but the model has {known}: was it drawn with another tokenizer?")
    lengths = np.array([len(ids) for ids in candidates.prompt_token_ids])[:, None] + candidates.lengths
    if room is not None and lengths.max(initial=0) > room:
        raise ValueError(f"the pool holds a text of {lengths.max()} tokens, but the model has a context of {room}")
