"""Candidate pools with vLLM as the first stage, through `ray.data.llm`: a request a candidate, then scoring as elsewhere.

The responses are other draws than those of the engines `local` and `ray`, from a sampler with rounding of its own: same
distribution, not the same bits. So vLLM's pools have keys of their own. Their log-probabilities are computed here, by the
policy itself, since vLLM gives only one of the two kinds that a pool holds.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray

from bon import Candidates
from bon.generation.detokenize import decoded
from bon.generation.options import resolve_generation_config, sampling_of
from bon.likelihood import sequence_logprobs
from suite.pools.ray_engine import Batch, RayEngine, Scoring, row_of, unit_of
from suite.pools.recipe import Recipe, Unit
from suite.pools.shards import Shards
from suite.runtime.errors import UserError


@dataclass(frozen=True)
class Requests:
    """A unit to the rows that vLLM's stage reads, one a candidate."""

    seed: int
    temperature: float
    max_new_tokens: int
    eos_token_id: int

    def __call__(self, row: Batch) -> list[Batch]:
        """The requests of a unit, prompt by prompt."""
        unit = unit_of(row["unit"])
        return [
            {"unit": row["unit"], "tokenized_prompt": prompt, "sampling_params": self.sampling_params(prompt_id, candidate)}
            for prompt, prompt_id in zip(unit.prompts, unit.prompt_ids, strict=True)
            for candidate in unit.candidates
        ]

    def sampling_params(self, prompt_id: int, candidate: int) -> Batch:
        """vLLM's options of one candidate. Its seed depends on (seed, prompt, candidate) alone, as elsewhere."""
        state = np.random.SeedSequence([self.seed, prompt_id, candidate]).generate_state(1, np.uint64)[0]
        return {
            "n": 1,
            "temperature": self.temperature,
            "top_k": 0,
            "top_p": 1.0,
            "max_tokens": self.max_new_tokens,
            "seed": int(state >> np.uint64(1)),
            "stop_token_ids": [self.eos_token_id],
            "detokenize": False,
        }


class Gathering(Scoring):
    """The second stage: the responses of one unit to its shard."""

    def __call__(self, batch: Batch) -> Batch:
        """All rows of one unit in, in order; the size of its shard out."""
        rows = list(dict.fromkeys(batch["unit"]))
        if len(rows) != 1:
            raise RuntimeError(f"a batch of {len(batch['unit'])} responses holds {len(rows)} shards instead of one")
        unit = unit_of(rows[0])
        pool = gathered(self.recipe, unit, [list(ids) for ids in batch["generated_tokens"]], max(batch["time_taken_llm"]))
        return {"bytes": np.array([self.kept(unit, pool)])}


def gathered(recipe: Recipe, unit: Unit, responses: Sequence[Sequence[int]], seconds: float) -> Candidates:
    """The pool of a unit from the token ids of its responses, prompt by prompt.

    Raises:
        RuntimeError: there are more or fewer responses than the unit has.
    """
    shape = (len(unit.prompts), len(unit.candidates))
    if len(responses) != shape[0] * shape[1]:
        raise RuntimeError(f"{len(responses)} responses for a shard of {shape[0]} x {shape[1]}")
    model, tokenizer = recipe.policy.model, recipe.policy.tokenizer
    config = resolve_generation_config(model, tokenizer, None, asdict(recipe.sampling))
    lengths = np.array([len(ids) for ids in responses], dtype=np.int32).reshape(shape)
    token_ids = np.full((*shape, recipe.sampling.max_new_tokens), config.pad_token_id, dtype=np.int32)
    token_ids[np.arange(token_ids.shape[2]) < lengths[..., None]] = list(itertools.chain.from_iterable(responses))
    prompts, texts = decoded(tokenizer, unit.prompts, token_ids, lengths)
    unknown = np.zeros(shape)
    metadata = {
        "seed": recipe.seed,
        "sampling": sampling_of(config),
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokens": int(lengths.sum()),
        "seconds": float(seconds),
        "steps": "vllm",
    }
    pool = Candidates(prompts, unit.prompts, texts, token_ids, lengths, unknown, unknown, metadata=metadata)
    raw = sequence_logprobs(model, pool)
    temperature = recipe.sampling.temperature
    warped = raw if temperature == 1.0 else sequence_logprobs(model, pool, temperature)
    return Candidates(prompts, unit.prompts, texts, token_ids, lengths, warped, raw, metadata=metadata)


@dataclass(frozen=True)
class VLLMEngine(RayEngine):
    """`engine=vllm`."""

    @property
    def name(self) -> str:
        """In the key: vLLM's draws are its own."""
        return "vllm"

    def waves(self, units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
        """Units of one size together: then every batch of vLLM's is one shard. A fresh pool has at most two sizes a range."""
        for _, alike in itertools.groupby(sorted(units, key=_size), key=_size):
            yield from super().waves(list(alike))

    def pipeline(self, units: Sequence[Unit], recipe: Recipe, sent: Any, shards: Shards) -> Any:
        """A data set with a row for every shard that has been kept."""
        rows = ray.data.from_items([{"unit": row_of(unit)} for unit in units], override_num_blocks=len(units))
        size = _size(units[0])
        drawn = self.processor(recipe, size)(rows.flat_map(requests(recipe)))
        options = self.actors("scoring", recipe=sent, shards=shards)
        return drawn.map_batches(Gathering, **{**options, "batch_size": size})

    def processor(self, recipe: Recipe, size: int) -> Callable[[Any], Any]:
        """vLLM's stage, from a data set of requests to one with their tokens."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own use of pydantic
            from ray.data.llm import build_processor, vLLMEngineProcessorConfig

            config = vLLMEngineProcessorConfig(
                model_source=recipe.policy.folder,
                engine_kwargs=engine_options(recipe, int(self.config.generation.gpus)),
                concurrency=(self.config.generation.actors, self.config.generation.actors),
                batch_size=size,
                chat_template_stage=False,
                tokenize_stage=False,
                detokenize_stage=False,
                log_engine_metrics=False,
            )
            return build_processor(config, postprocess=_kept_columns)


def requests(recipe: Recipe) -> Requests:
    """The requests of a recipe.

    Raises:
        UserError: the policy has a padding token of its own, which vLLM would sample (the other engines suppress it).
    """
    tokenizer = recipe.policy.tokenizer
    if tokenizer.pad_token_id != tokenizer.eos_token_id:
        raise UserError(
            f"engine=vllm cannot draw from policy={recipe.policy.name}: its padding token is not its end-of-sequence "
            "token, and vLLM would sample it; use engine=ray"
        )
    sampling = recipe.sampling
    return Requests(recipe.seed, sampling.temperature, sampling.max_new_tokens, tokenizer.eos_token_id)


def engine_options(recipe: Recipe, gpus: int) -> dict[str, Any]:
    """vLLM's engine arguments: the policy's own number format, no options from the model's files, prompts read once."""
    return {
        "tensor_parallel_size": gpus,
        "dtype": str(recipe.policy.model.dtype).removeprefix("torch."),
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,
    }


def _size(unit: Unit) -> int:
    return len(unit.prompts) * len(unit.candidates)


def _kept_columns(row: Batch) -> Batch:
    return {name: row[name] for name in ("unit", "generated_tokens", "time_taken_llm")}
