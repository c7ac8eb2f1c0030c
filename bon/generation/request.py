"""How candidates are drawn, in one value that everything that draws passes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import GenerationConfig

from bon.checks import whole


@dataclass(frozen=True)
class SamplingRequest:
    """Arguments of `generate_candidates`, described there, beside model, tokenizer, prompts and their number of candidates.

    Attributes:
        options: single options of GenerationConfig.

    Raises:
        ValueError: a number that is not whole, or too small.
    """

    seed: int = 0
    generation_config: GenerationConfig | None = None
    response_lengths: Sequence[int] | None = None
    prompt_ids: Sequence[int] | None = None
    first_candidate: int = 0
    max_batch_tokens: int | None = None
    compile: bool = False
    progress: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "seed": whole("seed", self.seed, 0),
            "first_candidate": whole("first_candidate", self.first_candidate, 0),
        }
        if self.max_batch_tokens is not None:
            checked["max_batch_tokens"] = whole("max_batch_tokens", self.max_batch_tokens, 1)
        if self.prompt_ids is not None:
            checked["prompt_ids"] = [whole("prompt_ids", identity, 0) for identity in self.prompt_ids]
        if self.response_lengths is not None:
            checked["response_lengths"] = [whole("response_lengths", length) for length in self.response_lengths]
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def identities(self, prompts: int) -> list[int]:
        """The identity of each prompt in the random streams.

        Raises:
            ValueError: not one for each prompt.
        """
        if self.prompt_ids is None:
            return list(range(prompts))
        if len(self.prompt_ids) != prompts:
            raise ValueError(f"{len(self.prompt_ids)} prompt_ids for {prompts} prompts")
        return list(self.prompt_ids)

    def of(self, **changes: Any) -> SamplingRequest:
        """The same with other arguments."""
        return replace(self, **changes)
