"""Going on with responses that were cut short: the same tokens as if they had been drawn in one go."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from bon.candidates import Candidates
from bon.generation.agreement import Sharing, sharing
from bon.generation.batching import batch_tokens
from bon.generation.detokenize import decoded
from bon.generation.fast.step_cache import CapturedSteps, captured_steps
from bon.generation.fast.views import sampling_view
from bon.generation.generate import check_context, check_probabilities
from bon.generation.options import reads_positions, resolve_generation_config
from bon.generation.randomness import candidate_uniforms
from bon.generation.request import SamplingRequest
from bon.generation.token_loop import Responses, decode
from bon.model_facts import check_draws_texts, device_of
from bon.wrappers import unwrapped

#: One response: its prompt and candidate in the pool.
_Row = tuple[int, int]


def continue_candidates(
    model: Any,
    tokenizer: Any,
    candidates: Candidates,
    response_lengths: Sequence[int],
    *,
    which: NDArray[np.bool_] | None = None,
    seed: int,
    generation_config: GenerationConfig | None = None,
    prompt_ids: Sequence[int] | None = None,
    first_candidate: int = 0,
    max_batch_tokens: int | None = None,
    **generation_kwargs: Any,
) -> Candidates:
    """The pool with unfinished responses drawn on, up to `response_lengths`.

    Called with the arguments that drew the pool, this gives the tokens that a pool with the longer limit has from the start:
    they come from the same uniform numbers. The prefix is read again in one pass instead of token by token, so logits agree
    to rounding (about 1e-6), and a token differs only where its uniform number falls within that of a boundary.

    Args:
        model: as in `generate_candidates`, like all that is not described here.
        tokenizer: its tokenizer.
        candidates: a pool of [P, N]. Its scores and reference log-probabilities are dropped: they were of shorter responses.
        response_lengths: the most tokens of each prompt's responses [P], counted from the end of the prompt.
        which: the responses to go on with [P, N]; all unless given. Those that have ended, or are that long already, stay.
        seed: of the pool.
        generation_config: of the pool.
        prompt_ids: of the pool.
        first_candidate: of the pool.
        max_batch_tokens: prompt and response tokens in one batch.
        **generation_kwargs: of the pool.

    Raises:
        ValueError: the shapes of `which` or `response_lengths` do not fit, or an option cannot be honoured.
    """
    request = SamplingRequest(
        seed, generation_config, response_lengths, prompt_ids, first_candidate, max_batch_tokens, options=generation_kwargs
    )
    return draw_on(model, tokenizer, candidates, request, which)


def draw_on(
    model: Any, tokenizer: Any, candidates: Candidates, request: SamplingRequest, which: NDArray[np.bool_] | None = None
) -> Candidates:
    """What `continue_candidates` does; the request has its `response_lengths`."""
    start = time.perf_counter()
    model = unwrapped(model)
    check_draws_texts(model)
    config = resolve_generation_config(model, tokenizer, request.generation_config, dict(request.options))
    if config.forced_eos_token_id is not None:
        raise ValueError("forced_eos_token_id forces the end of every stage: responses drawn in stages cannot honour it")
    limits = np.asarray(request.response_lengths, dtype=np.int64)
    which = np.ones(candidates.lengths.shape, dtype=bool) if which is None else which
    for name, shape, wanted in (
        ("response_lengths", limits.shape, candidates.lengths.shape[:1]),
        ("which", which.shape, candidates.lengths.shape),
    ):
        if shape != wanted:
            raise ValueError(f"{name} must have shape {wanted}, got {shape}")
    check_context(model, candidates.prompt_token_ids, limits.tolist())
    prompt_ids = request.identities(candidates.num_prompts)
    going = which & ~ended(candidates, config) & (candidates.lengths < limits[:, None])
    width = max(candidates.token_ids.shape[2], int(np.where(going, limits[:, None], 0).max(initial=0)))
    pool = _Growing.of(candidates, width, config.pad_token_id)
    view = sampling_view(model)
    shared = Sharing.ANY
    if going.sum() > 1:
        lengths = [len(ids) for ids in candidates.prompt_token_ids]
        shared = sharing(view, config, int((lengths + limits).max()))
    budget = batch_tokens(model, request.max_batch_tokens, shared)
    with captured_steps(device_of(model)) as captured:
        for rows in _batches(pool, going, limits, budget, uniform=reads_positions(config) or shared is not Sharing.ANY):
            for part, responses in _drawn_within_memory(
                view, config, pool, rows, limits, prompt_ids, request, captured, shared
            ):
                pool.write(part, responses)
    texts = candidates.texts.copy()
    for p in np.flatnonzero(going.any(axis=1)).tolist():
        at = np.flatnonzero(going[p])
        texts[p, at] = decoded(tokenizer, [pool.prompts[p]], pool.token_ids[p][None, at], pool.lengths[p][None, at])[1]
    tokens, seconds = int(pool.lengths.sum()), time.perf_counter() - start
    return replace(
        candidates,
        texts=texts,
        token_ids=pool.token_ids,
        lengths=pool.lengths,
        logprobs=pool.logprobs,
        raw_logprobs=pool.raw_logprobs,
        ref_logprobs=None,
        scores={},
        metadata={**candidates.metadata, "tokens": tokens, "seconds": candidates.metadata.get("seconds", 0.0) + seconds},
    )


def ended(candidates: Candidates, config: GenerationConfig) -> NDArray[np.bool_]:
    """Which responses end with an end-of-sequence token [P, N]."""
    eos = config.eos_token_id
    last = np.take_along_axis(candidates.token_ids, candidates.lengths[..., None].astype(np.int64) - 1, axis=2)[..., 0]
    return np.isin(last, [] if eos is None else eos)


@dataclass
class _Growing:
    """Arrays of a pool that are written to while its responses grow; as in `Candidates`."""

    prompts: Sequence[Sequence[int]]
    token_ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    logprobs: NDArray[np.float64]
    raw_logprobs: NDArray[np.float64]

    @classmethod
    def of(cls, candidates: Candidates, width: int, pad: int) -> _Growing:
        """Copies of the arrays of a pool, with room for `width` tokens."""
        missing = width - candidates.token_ids.shape[2]
        return cls(
            candidates.prompt_token_ids,
            np.pad(candidates.token_ids, ((0, 0), (0, 0), (0, missing)), constant_values=pad),
            candidates.lengths.copy(),
            candidates.logprobs.copy(),
            candidates.raw_logprobs.copy(),
        )

    def write(self, rows: list[_Row], responses: Responses) -> None:
        """Take in the next tokens of these responses."""
        token_ids, lengths = responses.token_ids.cpu().numpy(), responses.lengths.cpu().numpy()
        logprobs, raw_logprobs = responses.logprobs.cpu().numpy(), responses.raw_logprobs.cpu().numpy()
        check_probabilities(logprobs, [p for p, _ in rows])
        for i, row in enumerate(rows):
            begun, more = self.lengths[row], lengths[i]
            self.token_ids[row][begun : begun + more] = token_ids[i, :more]
            self.lengths[row] += more
            self.logprobs[row] += logprobs[i]
            self.raw_logprobs[row] += raw_logprobs[i]


def _batches(
    pool: _Growing, going: NDArray[np.bool_], limits: NDArray[np.int64], max_batch_tokens: int, uniform: bool
) -> Iterator[list[_Row]]:
    """Rows that have begun with equally many tokens share a batch; with `uniform`, also of one prompt length and limit."""

    def kind(row: _Row) -> tuple[int, int, int]:
        return int(pool.lengths[row]), len(pool.prompts[row[0]]), int(limits[row[0]])

    batch: list[_Row] = []
    prompt_width = limit = 0
    for row in sorted(((int(p), int(c)) for p, c in np.argwhere(going)), key=kind):
        alike = not batch or (kind(row) == kind(batch[0]) if uniform else kind(row)[0] == kind(batch[0])[0])
        prompt_width, limit = max(prompt_width, kind(row)[1]), max(limit, kind(row)[2])
        if batch and (not alike or (len(batch) + 1) * (prompt_width + limit) > max_batch_tokens):
            yield batch
            batch, (_, prompt_width, limit) = [], kind(row)
        batch.append(row)
    if batch:
        yield batch


def _drawn_within_memory(
    model: Any,
    config: GenerationConfig,
    pool: _Growing,
    rows: list[_Row],
    limits: NDArray[np.int64],
    prompt_ids: Sequence[int],
    request: SamplingRequest,
    captured: CapturedSteps | None,
    shared: Sharing,
) -> Iterator[tuple[list[_Row], Responses]]:
    """The rest of these responses; where the GPU's memory ends, of one half after the other."""
    begun = int(pool.lengths[rows[0]])
    room = [int(limits[p]) - begun for p, _ in rows]
    uniforms = np.empty((len(rows), begun + max(room)))
    for p in {p for p, _ in rows}:
        of_prompt = [(i, c) for i, (q, c) in enumerate(rows) if q == p]
        at, columns = np.array(of_prompt).T
        drawn = range(request.first_candidate + columns.min(), request.first_candidate + columns.max() + 1)
        uniforms[at] = candidate_uniforms(request.seed, prompt_ids[p], drawn, uniforms.shape[1])[columns - columns.min()]
    device = device_of(model)
    try:
        responses = decode(
            model,
            config,
            [pool.prompts[p] for p, _ in rows],
            1,
            torch.from_numpy(uniforms[:, begun:]).to(device, torch.float32 if device.type == "mps" else torch.float64),
            torch.tensor(room, device=device),
            begun=torch.from_numpy(np.stack([pool.token_ids[row][:begun] for row in rows]).astype(np.int64)).to(device),
            captured=captured,
            by_generate=shared is Sharing.BY_GENERATE,
        )
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
        responses = None
    if responses is not None:
        yield rows, responses
        return
    if captured is not None:
        captured.clear()
    torch.cuda.empty_cache()
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        yield from _drawn_within_memory(model, config, pool, half, limits, prompt_ids, request, captured, shared)
