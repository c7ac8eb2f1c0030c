"""Policy and prompts in, `Candidates` out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import GenerationConfig

from bon.candidates import Candidates
from bon.checks import whole
from bon.generation.agreement import Sharing, sharing
from bon.generation.batching import BATCH_LOGITS, LENGTH_CLASS, Batch, batch_tokens, evened, pack, tokens_of
from bon.generation.detokenize import decoded
from bon.generation.fast.step_cache import CapturedSteps, captured_steps
from bon.generation.fast.views import sampling_view
from bon.generation.options import reads_positions, resolve_generation_config, sampling_of
from bon.generation.queries import prompt_token_ids
from bon.generation.randomness import candidate_uniforms
from bon.generation.request import SamplingRequest
from bon.generation.token_loop import Responses, decode
from bon.model_facts import check_draws_texts, device_of, usable_positions, vocabulary_size
from bon.wrappers import unwrapped


def generate_candidates(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    num_candidates: int,
    *,
    seed: int = 0,
    generation_config: GenerationConfig | None = None,
    response_lengths: Sequence[int] | None = None,
    prompt_ids: Sequence[int] | None = None,
    first_candidate: int = 0,
    max_batch_tokens: int | None = None,
    compile: bool = False,
    progress: bool = False,
    **generation_kwargs: Any,
) -> Candidates:
    """Draw `num_candidates` responses for every prompt.

    Every candidate has its own stream of uniform numbers, keyed by (seed, prompt id, candidate); no global generator is read
    or moved. So the first n candidates of a pool of N are those of a pool of n, and a pool can be grown later with
    `first_candidate`. On one machine the same call gives the same bits. A different cut of the work (another
    `max_batch_tokens`, other prompts beside this one), or of the kernels (`compile`, graphs that are kept between calls on a
    GPU), changes logits by rounding (about 1e-6), which changes a token only where its uniform number falls within that of a
    boundary: then the candidate is another draw from the same distribution.

    Args:
        model: a transformers causal LM, bare, with a PEFT adapter, or in TRL's value-head wrapper.
        tokenizer: its tokenizer.
        prompts: P texts, or P lists of token ids; also chats, tensors and what a tokenizer returns (see
            `bon.generation.queries.prompt_token_ids`).
        num_candidates: N, candidates a prompt.
        seed: non-negative integer.
        generation_config: transformers' options. What neither they nor the model's own `generation_config` set means the
            whole distribution at temperature 1.
        response_lengths: the most tokens of each prompt's responses [P], whatever the options say; otherwise `max_new_tokens`
            for all.
        prompt_ids: the identity of each prompt [P] in the random streams, 0..P-1 unless given (for shards of a larger set).
        first_candidate: index of the first candidate drawn, to grow a pool.
        max_batch_tokens: prompt and response tokens in one batch; chosen from the device's memory unless given. On a GPU,
            running out of memory halves the batch and goes on.
        compile: compile the decode step by `torch.compile`. That takes up to a minute for every shape of a batch (its
            rows and length), and is remembered for later calls with this model: for many calls alike, or very many
            candidates. On a CPU it also takes a second copy of the weights. What cannot be compiled is drawn as without, with
            a warning in the log. Responses of fewer than 8 tokens, and models with a cache other than plain keys and values,
            never are.
        progress: show a bar on a terminal.
        **generation_kwargs: single options of GenerationConfig, for example `temperature=0.7, max_new_tokens=24`.

    Returns:
        Candidates without scores. `metadata` holds seed, sampling options, tokens drawn, seconds and how the steps were run:
        "compiled", "captured" in a CUDA graph, "plain", or several. A graph lasts for one call;
        `bon.generation.fast.step_cache.captured_steps_kept` keeps it for many calls of one shape.

    Raises:
        ValueError: bad counts, an empty prompt or batch, a prompt that leaves no room in the context, greedy decoding with
            several candidates, an option that cannot be honoured, logits that leave nothing to draw.
    """
    return draw(
        model,
        tokenizer,
        prompts,
        num_candidates,
        SamplingRequest(
            seed,
            generation_config,
            response_lengths,
            prompt_ids,
            first_candidate,
            max_batch_tokens,
            compile,
            progress,
            generation_kwargs,
        ),
    )


def draw(model: Any, tokenizer: Any, prompts: Any, num_candidates: int, request: SamplingRequest) -> Candidates:
    """What `generate_candidates` does."""
    start = time.perf_counter()
    model = unwrapped(model)
    check_draws_texts(model)
    config = resolve_generation_config(model, tokenizer, request.generation_config, dict(request.options))
    token_ids = prompt_token_ids(tokenizer, prompts)
    num_candidates = whole("num_candidates", num_candidates, 1)
    if not config.do_sample and num_candidates > 1:
        raise ValueError(f"do_sample=False draws the same text {num_candidates} times; set do_sample=True or draw 1 candidate")
    limits = response_limits(config, token_ids, request.response_lengths)
    check_context(model, token_ids, limits)
    prompt_ids = request.identities(len(token_ids))

    device = device_of(model)
    shape = (len(token_ids), num_candidates)
    ids = np.full((*shape, max(limits)), config.pad_token_id, dtype=np.int32)
    lengths = np.zeros(shape, dtype=np.int32)
    logprobs, raw_logprobs = np.zeros(shape), np.zeros(shape)
    candidates = range(request.first_candidate, request.first_candidate + num_candidates)
    view = sampling_view(model)
    longest = max(len(prompt) + limit for prompt, limit in zip(token_ids, limits, strict=True))
    shared = sharing(view, config, longest) if len(token_ids) * num_candidates > 1 else Sharing.ANY
    batches = pack(
        token_ids,
        limits,
        candidates,
        batch_tokens(model, request.max_batch_tokens, shared),
        uniform=reads_positions(config) or shared is not Sharing.ANY,
        max_rows=max(1, BATCH_LOGITS // (vocabulary_size(model) or 1)),
        length_class=LENGTH_CLASS if device.type == "cuda" or request.compile else 1,
    )
    if request.compile:  # equal batches, the largest first: its step holds the others
        batches = iter(sorted(evened(batches, token_ids, limits), key=lambda batch: -tokens_of(batch, token_ids, limits)))
    steps = set()
    total = len(token_ids) * num_candidates
    bar = tqdm(total=total, desc="drawing candidates", unit="", disable=None if request.progress else True)
    with bar, captured_steps(device, request.compile) as captured:
        for planned in batches:
            for batch, responses in _decode_within_memory(
                view, config, planned, token_ids, limits, prompt_ids, request.seed, captured, shared
            ):
                steps.add(responses.steps)
                rows = np.ix_(np.asarray(batch.positions), np.asarray(batch.candidates) - request.first_candidate)
                block = (len(batch.positions), len(batch.candidates))
                ids[..., : responses.token_ids.shape[1]][rows] = responses.token_ids.reshape(*block, -1).cpu().numpy()
                lengths[rows] = responses.lengths.reshape(block).cpu().numpy()
                logprobs[rows] = responses.logprobs.reshape(block).cpu().numpy()
                check_probabilities(logprobs[rows], batch.positions)
                raw_logprobs[rows] = responses.raw_logprobs.reshape(block).cpu().numpy()
                bar.update(block[0] * block[1])
    texts, responses_text = decoded(tokenizer, token_ids, ids, lengths)
    return Candidates(
        prompts=texts,
        prompt_token_ids=token_ids,
        texts=responses_text,
        token_ids=ids,
        lengths=lengths,
        logprobs=logprobs,
        raw_logprobs=raw_logprobs,
        metadata={
            "seed": request.seed,
            "sampling": sampling_of(config),
            "device": str(device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "steps": " and ".join(sorted(steps)),
            "tokens": int(lengths.sum()),
            "seconds": time.perf_counter() - start,
        },
    )


def response_limits(
    config: GenerationConfig, prompts: Sequence[Sequence[int]], response_lengths: Sequence[int] | None
) -> list[int]:
    """The most tokens that each prompt's responses may have [P], from whichever option says so."""
    if response_lengths is not None:
        if len(response_lengths) != len(prompts):
            raise ValueError(f"{len(response_lengths)} response_lengths for {len(prompts)} prompts")
        limits = [whole("response_lengths", length) for length in response_lengths]
    elif config.max_new_tokens is not None:
        limits = [whole("max_new_tokens", config.max_new_tokens)] * len(prompts)
    elif config.max_length is not None:
        limits = [whole("max_length", config.max_length) - len(prompt) for prompt in prompts]
    else:
        raise ValueError("how long may a response be? set max_new_tokens")
    for index, limit in enumerate(limits):
        if limit < 1:
            raise ValueError(f"prompt {index} may have responses of {limit} tokens; at least 1 is needed")
    return limits


def check_context(model: Any, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> None:
    """Refuse prompts that leave no room for their responses, and token ids that the model does not have."""
    context, vocabulary = usable_positions(model), vocabulary_size(model)
    for index, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        if context is not None and len(prompt) + limit > context:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens, which leaves no room for {limit} more in a context of {context}; "
                "shorten it or max_new_tokens"
            )
        if vocabulary is not None and not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise ValueError(
                f"prompt {index} holds token ids {min(prompt)}..{max(prompt)}, but the model has {vocabulary}: "
                "was it made with another tokenizer?"
            )


def check_probabilities(logprobs: np.ndarray, positions: Sequence[int]) -> None:
    """Refuse log-probabilities [R, ...], a row each of the prompts at these positions, that are no numbers."""
    broken = np.isnan(logprobs).reshape(len(logprobs), -1).any(1)
    if broken.any():
        raise ValueError(
            f"no next token of prompt {positions[int(broken.argmax())]} has a probability: the model's logits are not finite, "
            "or the options leave no token to draw"
        )


def _decode_within_memory(
    model: Any,
    config: GenerationConfig,
    batch: Batch,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    prompt_ids: Sequence[int],
    seed: int,
    captured: CapturedSteps | None,
    shared: Sharing,
) -> Iterator[tuple[Batch, Responses]]:
    """Decode a batch; where the GPU's memory ends, its halves."""
    steps = max(limits[p] for p in batch.positions)
    repeats = len(batch.candidates)
    uniforms = np.concatenate([candidate_uniforms(seed, prompt_ids[p], batch.candidates, steps) for p in batch.positions])
    device = device_of(model)
    try:
        responses = decode(
            model,
            config,
            [prompts[p] for p in batch.positions],
            repeats,
            torch.from_numpy(uniforms).to(device=device, dtype=torch.float32 if device.type == "mps" else torch.float64),
            torch.tensor([limits[p] for p in batch.positions], device=device).repeat_interleave(repeats),
            captured=captured,
            by_generate=shared is Sharing.BY_GENERATE,
        )
    except torch.OutOfMemoryError:
        if len(batch.positions) * repeats == 1:
            raise
        responses = None
    if responses is not None:
        yield batch, responses
        return
    if captured is not None:
        captured.clear()
    torch.cuda.empty_cache()
    for half in batch.halves():
        yield from _decode_within_memory(model, config, half, prompts, limits, prompt_ids, seed, captured, shared)
