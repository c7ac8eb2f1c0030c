"""`BestOfNSampler`: the class that users of `trl.extras.BestOfNSampler` know, on top of pools that are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from bon.candidates import Candidates
from bon.generation import generate_candidates
from bon.randomness import fresh_seed
from bon.rewards import Reward, RewardError, score_candidates
from bon.selection import top_k

#: The name of the score column that `BestOfNSampler` fills and selects by.
SCORE = "proxy"


class LengthSampler:
    """Uniform integers from `min_value` up to, not including, `max_value`: TRL's class, with a generator of its own.

    >>> sampler = LengthSampler(2, 4, seed=0)
    >>> set(sampler() for _ in range(50)) == {2, 3}
    True

    Args:
        min_value: smallest length, in tokens.
        max_value: one more than the largest.
        seed: makes the sequence of lengths repeatable; fresh entropy unless given.

    Raises:
        ValueError: the range is empty.
    """

    def __init__(self, min_value: int, max_value: int, seed: int | None = None) -> None:
        if not 1 <= min_value < max_value:
            raise ValueError(f"need 1 <= min_value < max_value (the upper end is exclusive), got {min_value}, {max_value}")
        self.min_value = int(min_value)
        self.max_value = int(max_value)
        self._rng = np.random.default_rng(seed)

    def __call__(self) -> int:
        """The next length."""
        return int(self._rng.integers(self.min_value, self.max_value))


class BestOfNSampler:
    """Draw `sample_size` responses a query, score them, return the best `n_candidates`.

    Takes TRL's arguments in TRL's order. Differences that matter: the caller's global random state is never touched;
    sampling is the default and greedy decoding with several samples is refused; what no option sets is the whole
    distribution (transformers' own default would be top-k 50).

    Args:
        model: any transformers causal LM, or TRL's value-head wrapper of one.
        tokenizer: its tokenizer, with or without a padding token, of either padding side.
        queries_to_scores: list of texts (query and response as one text) -> one finite number each.
        length_sampler: called once a query, returns the most tokens its responses may have.
        sample_size: n, responses drawn for each query.
        seed: makes the sequence of calls repeatable: the k-th call of two samplers with one seed draws the same. Fresh
            entropy unless given.
        n_candidates: how many of the best are returned, best first.
        generation_config: options of transformers' sampling; a call's keywords win over them.

    Raises:
        ValueError: `sample_size` or `n_candidates` is below 1, or more are to be returned than drawn.
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
    ) -> None:
        if sample_size < 1:
            raise ValueError(f"sample_size must be at least 1, got {sample_size}")
        if not 1 <= n_candidates <= sample_size:
            raise ValueError(f"n_candidates must lie in 1..{sample_size} (the sample_size), got {n_candidates}")
        self.model = model
        self.tokenizer = tokenizer
        self.queries_to_scores = queries_to_scores
        self.length_sampler = length_sampler
        self.sample_size = sample_size
        self.n_candidates = n_candidates
        self.generation_config = generation_config
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
            tokenized_query: a list of token ids, a 1-D tensor, a 2-D tensor, a list of lists, or a list of 1-D tensors.
            skip_special_tokens: leave special tokens (end of sequence, padding) out of the text.
            device: where the model is moved first; it stays where it is unless given.
            **generation_kwargs: options of GenerationConfig.

        Returns:
            [P][n_candidates] texts.

        Raises:
            ValueError: as `generate_candidates`.
            RewardError: the reward failed; the candidates drawn are its `candidates`.
        """
        best = top_k(self.sample(tokenized_query, device=device, **generation_kwargs), self.n_candidates, by=SCORE)
        if skip_special_tokens:
            return best.full_texts
        return [
            self.tokenizer.batch_decode(
                [list(prompt) + ids[:length].tolist() for ids, length in zip(row, lengths, strict=True)]
            )
            for prompt, row, lengths in zip(best.prompt_token_ids, best.token_ids, best.lengths, strict=True)
        ]

    def sample(self, tokenized_query: Any, device: str | torch.device | None = None, **generation_kwargs: Any) -> Candidates:
        """Everything that was drawn for every query, scored: the reward is `scores["proxy"]` [P, sample_size].

        Arguments and errors as `generate`.
        """
        queries = query_token_ids(tokenized_query)
        if device is not None:
            self.model.to(device)
        candidates = generate_candidates(
            self.model,
            self.tokenizer,
            queries,
            self.sample_size,
            seed=int(self._seeds.spawn(1)[0].generate_state(1)[0]),
            generation_config=self.generation_config,
            response_lengths=[self.length_sampler() for _ in queries],
            **generation_kwargs,
        )
        return score_candidates(candidates, proxy=self.queries_to_scores)


def query_token_ids(tokenized_query: Any) -> list[list[int]]:
    """Token ids of every query, from any of the forms that `BestOfNSampler.generate` takes.

    >>> query_token_ids([1, 2]), query_token_ids(torch.tensor([[1, 2], [3, 4]]))
    ([[1, 2]], [[1, 2], [3, 4]])

    Raises:
        ValueError: no query, an empty one, or another form.
    """
    if isinstance(tokenized_query, torch.Tensor | np.ndarray):
        if tokenized_query.ndim not in (1, 2):
            raise ValueError(f"a tensor of queries has 1 or 2 dimensions, got shape {tuple(tokenized_query.shape)}")
        tokenized_query = [tokenized_query] if tokenized_query.ndim == 1 and len(tokenized_query) else list(tokenized_query)
    if not isinstance(tokenized_query, Sequence) or isinstance(tokenized_query, str):
        raise ValueError(
            f"tokenized_query must hold token ids (a list, a tensor, or a list of those), got {type(tokenized_query).__name__}"
        )
    rows = list(tokenized_query)
    if not rows:
        raise ValueError("tokenized_query is empty: nothing to generate for")
    if all(isinstance(item, int | np.integer) or getattr(item, "ndim", None) == 0 for item in rows):
        rows = [rows]
    queries = [_token_row(index, row) for index, row in enumerate(rows)]
    for index, query in enumerate(queries):
        if not query:
            raise ValueError(f"query {index} is empty: it needs at least one token to start from")
    return queries


def _token_row(index: int, row: Any) -> list[int]:
    """One query as a list of ints."""
    array = row.cpu().numpy() if isinstance(row, torch.Tensor) else np.asarray(row)
    if array.size == 0:
        return []
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"query {index} must be a list of integer token ids, got {array.dtype} of shape {array.shape}")
    return [int(token) for token in array]


__all__ = ["SCORE", "BestOfNSampler", "LengthSampler", "RewardError", "query_token_ids"]
