"""Log-probabilities of responses that are already there, under any model: response tokens only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bon.candidates import Candidates
from bon.model_view import view_of
from bon.wrappers import unwrapped

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
    device = model.device
    prompt_lengths = np.array([len(ids) for ids in candidates.prompt_token_ids])
    keeps = model._supports_logits_to_keep()
    steps = candidates.token_ids.shape[2]
    most = _BATCH_LOGITS // (model.config.get_text_config().vocab_size * (steps + 1))
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
    total = np.zeros(candidates.lengths.shape)
    for rows, ids, inside, logits in response_logits(model, candidates, batch_tokens):
        logprobs = (logits / temperature).log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
        total[rows] = torch.where(inside, logprobs, 0.0).double().sum(1).cpu().numpy()
    return total
