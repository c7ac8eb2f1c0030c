"""`BestOfNSampler`: the class that users of `trl.extras.BestOfNSampler` know, on top of pools that are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from transformers import GenerationConfig

from bon.candidates import Candidates
from bon.checks import whole
from bon.generation.fast.step_cache import CapturedSteps, captured_steps_kept
from bon.generation.generate import generate_candidates
from bon.generation.options import resolve_generation_config, sampling_of
from bon.generation.queries import prompt_token_ids, query_token_ids
from bon.generation.randomness import fresh_seed
from bon.rewards import Reward, RewardError, Unfinished, score_candidates
from bon.rewards.unfinished import check_unfinished
from bon.selection import TopK, ranking, scores_of
from bon.wrappers import unwrapped

#: The name of the score column that `BestOfNSampler` fills and selects by.
SCORE = "proxy"
#: Candidates a query that `generate` holds at once; of those before, only the best are kept.
_BLOCK = 256
#: Arguments of `generate_candidates` that the sampler sets itself.
_NOT_OF_A_CALL = frozenset({"seed", "prompt_ids", "response_lengths", "first_candidate", "compile", "generation_config"})


class LengthSampler:
    """Uniform integers from `min_value` up to, not including, `max_value`: TRL's class, with a generator of its own.

    >>> sampler = LengthSampler(2, 4, seed=0)
    >>> set(sampler() for _ in range(50)) == {2, 3}
    True

    Args:
        min_value: smallest length, in tokens.
        max_value: one more than the largest.
        seed: makes the sequence of lengths repeatable. Without one, lengths follow from the seed of the sampler that asks for
            them, and from fresh entropy elsewhere.

    Raises:
        ValueError: the range is empty.
    """

    def __init__(self, min_value: int, max_value: int, seed: int | None = None) -> None:
        min_value, max_value = whole("min_value", min_value), whole("max_value", max_value)
        if not 1 <= min_value < max_value:
            raise ValueError(f"need 1 <= min_value < max_value (the upper end is exclusive), got {min_value}, {max_value}")
        self.min_value = min_value
        self.max_value = max_value
        self.seed = seed
        self._rng = np.random.default_rng(seed)

    def __call__(self) -> int:
        """The next length."""
        return self.drawn_by(self._rng)

    def drawn_by(self, rng: np.random.Generator) -> int:
        """A length from another generator."""
        return int(rng.integers(self.min_value, self.max_value))


class BestOfNSampler:
    """Draw `sample_size` responses a query, score them, return the best `n_candidates`.

    Takes TRL's arguments in TRL's order. Differences that matter: the caller's global random state is never touched;
    sampling is the default and greedy decoding with several samples is refused; what neither an option nor the model's own
    `generation_config` sets is the whole distribution (transformers' own default would be top-k 50).

    Args:
        model: any transformers causal LM, bare, with a PEFT adapter, or in TRL's value-head wrapper.
        tokenizer: its tokenizer, with or without a padding token, of either padding side.
        queries_to_scores: list of texts (query and response as one text) -> one finite number each; or any other reward that
            `score_candidates` takes: of `prompts` and `responses`, of `messages`, a coroutine function.
        length_sampler: called once a query, returns the most tokens its responses may have. A `LengthSampler` without a seed
            of its own takes its lengths from `seed`.
        sample_size: n, responses drawn for each query.
        seed: makes the sequence of calls repeatable: the k-th call of two samplers with one seed draws the same. Fresh
            entropy unless given.
        n_candidates: how many of the best are returned, best first.
        generation_config: options of transformers' sampling; a call's keywords win over them.
        compile: compile the decode step (see `generate_candidates`), and keep the last one, with the memory of its keys and
            values, from call to call, as `captured_steps_kept` of `bon.generation.fast.step_cache` does: weights may change in
            place; an adapter that is switched on or off on a GPU needs a sampler of its own.
        on_missing: what becomes of candidates that the reward abstains from, as in `score_candidates`.
        unfinished: what becomes of responses that did not end by themselves, as there.
        penalty: taken from their scores, if they are penalized.

    Raises:
        ValueError: `sample_size` or `n_candidates` is below 1, more are to be returned than drawn, or `generation_config`
            says how long responses may be, which `length_sampler` does.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        queries_to_scores: Reward,
        length_sampler: Callable[[], int],
        sample_size: int = 4,
        seed: int | None = None,
        n_candidates: int = 1,
        generation_config: GenerationConfig | None = None,
        *,
        compile: bool = False,
        on_missing: Literal["error", "exclude"] = "error",
        unfinished: Unfinished = "keep",
        penalty: float | None = None,
    ) -> None:
        sample_size, n_candidates = whole("sample_size", sample_size, 1), whole("n_candidates", n_candidates)
        if not 1 <= n_candidates <= sample_size:
            raise ValueError(f"n_candidates must lie in 1..{sample_size} (the sample_size), got {n_candidates}")
        self.model = model
        self.tokenizer = tokenizer
        self.queries_to_scores = queries_to_scores
        self.length_sampler = length_sampler
        self.sample_size = sample_size
        self.n_candidates = n_candidates
        if generation_config is not None:
            _refuse_lengths(generation_config.to_dict(), "generation_config.")
        self.generation_config = generation_config
        check_unfinished(unfinished, penalty)
        self._judging: dict[str, Any] = {"on_missing": on_missing, "unfinished": unfinished, "penalty": penalty}
        self._steps = CapturedSteps() if compile else None
        self._seeds = np.random.SeedSequence(fresh_seed() if seed is None else seed)

    def generate(
        self,
        tokenized_query: Any,
        skip_special_tokens: bool = True,
        device: str | torch.device | None = None,
        **generation_kwargs: Any,
    ) -> list[list[str]]:
        """The best `n_candidates` texts for every query, best first; each is query and response as one text, as in TRL.

        Args:
            tokenized_query: a list of token ids, a 1-D tensor, a 2-D tensor, a list of lists, or a list of 1-D tensors (or of
                such tensors in batches of one); also texts, chats and what a tokenizer returns: all that
                `bon.generation.queries.prompt_token_ids` reads. The tokenizer's padding token is no part of a query, unless
                it also begins or ends texts: then say by `attention_mask` where queries are padded.
            skip_special_tokens: leave special tokens (end of sequence, padding) out of the text.
            device: where the model is moved first; it stays where it is unless given, or where accelerate has dispatched it.
            **generation_kwargs: options of GenerationConfig, or `attention_mask`, `max_batch_tokens`, `progress` of `sample`.

        Returns:
            [P][n_candidates] texts: the best of what `sample` would return. Only 256 candidates a query are held, and
            scored, at a time, so memory does not grow with `sample_size`; a reward that looks at its whole batch of texts
            sees that much.

        Raises:
            ValueError: as `generate_candidates`.
            RewardError: the reward failed; the candidates drawn are its `candidates`.
        """
        mask = generation_kwargs.pop("attention_mask", None)
        queries, seed, lengths = self._planned(tokenized_query, mask, device, generation_kwargs)
        best: Candidates | None = None
        for begin in range(0, self.sample_size, _BLOCK):
            block = range(begin, min(begin + _BLOCK, self.sample_size))
            best = self._best(best, self._drawn(queries, block, seed, lengths, best, **generation_kwargs))
        assert best is not None
        best = best.select(TopK(self.n_candidates, by=SCORE))  # refuses those without a score
        if skip_special_tokens:
            return best.full_texts
        return [
            self.tokenizer.batch_decode(
                [list(prompt) + ids[:length].tolist() for ids, length in zip(row, lengths, strict=True)]
            )
            for prompt, row, lengths in zip(best.prompt_token_ids, best.token_ids, best.lengths, strict=True)
        ]

    def sample(
        self,
        tokenized_query: Any,
        device: str | torch.device | None = None,
        *,
        attention_mask: Any = None,
        max_batch_tokens: int | None = None,
        progress: bool = False,
        **generation_kwargs: Any,
    ) -> Candidates:
        """Everything that was drawn for every query, scored: the reward is `scores["proxy"]` [P, sample_size].

        `select` of what is returned picks from it by any rule of `bon.selection`, `grow` draws more.

        Args:
            tokenized_query: as in `generate`, like `device`, the keywords and the errors.
            device: where the model is moved first.
            attention_mask: 1 where `tokenized_query` has a token and 0 where it has padding, in the same form.
            max_batch_tokens: prompt and response tokens in one batch; chosen from the device's memory unless given.
            progress: show bars on a terminal.
            **generation_kwargs: options of GenerationConfig.
        """
        queries, seed, lengths = self._planned(tokenized_query, attention_mask, device, generation_kwargs)
        return self._drawn(
            queries,
            range(self.sample_size),
            seed,
            lengths,
            max_batch_tokens=max_batch_tokens,
            progress=progress,
            **generation_kwargs,
        )

    def grow(
        self,
        candidates: Candidates,
        sample_size: int,
        *,
        max_batch_tokens: int | None = None,
        progress: bool = False,
        **generation_kwargs: Any,
    ) -> Candidates:
        """A pool of `sample` with further candidates behind its own, `sample_size` in all; only the new ones are drawn.

        The candidates that were there stay as they are, to the bit. The new ones come from the uniform numbers that
        `sample_size` candidates would have had from the start, so the whole is the pool drawn at once, up to the rounding
        of logits that another cut into batches brings (see `generate_candidates`): equal in distribution always, equal in
        tokens but for uniform numbers that fall within about 1e-6 of a boundary. A pool loaded from its file grows as well.

        Args:
            candidates: what `sample` or `grow` returned, of this model: the pool remembers its seed, its lengths and its
                sampling options, not its model. Not a selection from it.
            sample_size: candidates a query afterwards, at least as many as there are.
            max_batch_tokens: prompt and response tokens in one batch.
            progress: show bars on a terminal.
            **generation_kwargs: options of GenerationConfig, those of the call that drew the pool.

        Returns:
            The grown pool. Scores other than "proxy" and reference log-probabilities are dropped: the new ones have none.

        Raises:
            ValueError: fewer candidates asked for than there are, a pool that `sample` did not draw, other sampling options.
            RewardError: as `generate`.
        """
        present = candidates.num_candidates
        if sample_size < present:
            raise ValueError(f"sample_size must be at least {present} (the candidates of the pool), got {sample_size}")
        if not {"seed", "sampling", "response_lengths"} <= set(candidates.metadata):
            raise ValueError(
                "this pool was not drawn by `sample`, or is a selection from one: grow the pool itself, or extend this one by "
                "generate_candidates(first_candidate=...)"
            )
        config = resolve_generation_config(unwrapped(self.model), self.tokenizer, self.generation_config, generation_kwargs)
        now, then = sampling_of(config), candidates.metadata["sampling"]
        changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
        if changed:
            raise ValueError(
                f"the pool was drawn with other sampling options: "
                f"{', '.join(f'{name}={then.get(name)!r}, now {now.get(name)!r}' for name in changed)}"
            )
        if sample_size == present:
            return candidates
        more = self._drawn(
            [list(ids) for ids in candidates.prompt_token_ids],
            range(present, sample_size),
            candidates.metadata["seed"],
            candidates.metadata["response_lengths"],
            candidates,
            max_batch_tokens=max_batch_tokens,
            progress=progress,
            **generation_kwargs,
        )
        return candidates.extended(more)

    def _planned(
        self, tokenized_query: Any, attention_mask: Any, device: str | torch.device | None, options: dict[str, Any]
    ) -> tuple[list[list[int]], int, list[int]]:
        """The queries of a call, its seed, and the most tokens of each query's responses."""
        queries = prompt_token_ids(self.tokenizer, tokenized_query, attention_mask, "tokenized_query")
        _refuse_lengths(options)
        taken = sorted(_NOT_OF_A_CALL & options.keys())
        if taken:
            raise TypeError(f"not options of a call but of the sampler, or none at all: {', '.join(taken)}")
        if device is not None and getattr(unwrapped(self.model), "hf_device_map", None) is None:
            self.model.to(device)
        call = self._seeds.spawn(1)[0]
        sampler = self.length_sampler
        if type(sampler) is LengthSampler and sampler.seed is None:
            rng = np.random.default_rng(call.spawn(1)[0])
            lengths = [sampler.drawn_by(rng) for _ in queries]
        else:
            lengths = [whole("a length of length_sampler", sampler()) for _ in queries]
        return queries, int(call.generate_state(1)[0]), lengths

    def _best(self, before: Candidates | None, part: Candidates) -> Candidates:
        """The best of those kept before and of a new block."""
        pool = part if before is None else before.extended(part)
        if SCORE not in pool.scores:
            scores_of(pool, SCORE)
        return pool.take(ranking(pool.scores[SCORE])[:, : self.n_candidates])

    def _drawn(
        self,
        queries: list[list[int]],
        block: range,
        seed: int,
        lengths: list[int],
        before: Candidates | None = None,
        *,
        progress: bool = False,
        **options: Any,
    ) -> Candidates:
        """These candidates of every query, scored. If the reward fails, those `before` go with them into its error."""
        with nullcontext() if self._steps is None else captured_steps_kept(self._steps):
            part = generate_candidates(
                self.model,
                self.tokenizer,
                queries,
                len(block),
                seed=seed,
                generation_config=self.generation_config,
                response_lengths=lengths,
                first_candidate=block.start,
                compile=self._steps is not None,
                progress=progress,
                **options,
            )
        part = replace(part, metadata={**part.metadata, "response_lengths": list(lengths)})
        try:
            rewards: dict[str, Any] = {SCORE: self.queries_to_scores}
            return score_candidates(part, progress=progress, **self._judging, **rewards)
        except RewardError as error:
            error.candidates = part if before is None else before.extended(part)
            raise


def _refuse_lengths(options: Mapping[str, Any], of: str = "") -> None:
    """Refuse the options that say what the length sampler says."""
    for name in ("max_new_tokens", "max_length"):
        if options.get(name) is not None:
            raise ValueError(
                f"{of}{name}={options[name]} cannot be honoured: length_sampler says how long responses may be; leave it out, "
                f"or pass length_sampler=lambda: {options[name]}"
            )


__all__ = ["SCORE", "BestOfNSampler", "LengthSampler", "RewardError", "query_token_ids"]
