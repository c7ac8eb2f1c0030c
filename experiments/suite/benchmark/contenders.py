"""Ways to draw n responses a prompt with one policy: this sampler, and what transformers offers.

Each is asked for its speed at an n and draws from the same distribution: the same prompts, options and longest response.
"""

from __future__ import annotations

import copy
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from bon import generate_candidates
from bon.generation.fast.step_cache import CapturedSteps, captured_steps_kept
from suite.benchmark.gemm_limit import check_units, short
from suite.benchmark.turns import UnavailableError
from suite.config.run import SamplingConfig
from suite.models.policies import Policy


@dataclass(frozen=True)
class Drawing:
    """Task that every contender draws."""

    policy: Policy
    prompts: Sequence[Sequence[int]]
    sampling: SamplingConfig

    def options(self) -> dict[str, Any]:
        """The options of transformers' GenerationConfig."""
        chosen = self.sampling
        return {
            "do_sample": True,
            "temperature": chosen.temperature,
            "top_k": chosen.top_k,
            "top_p": chosen.top_p,
            "max_new_tokens": chosen.max_new_tokens,
            "pad_token_id": self.policy.tokenizer.pad_token_id,
            "eos_token_id": self.policy.tokenizer.eos_token_id,
        }


class Contender(Protocol):
    """One row of the table for every n."""

    name: str
    dtype: torch.dtype

    def speed(self, n: int) -> float:
        """Tokens a second of drawing n responses for every prompt, in one run."""

    def note(self, n: int) -> str:
        """Say how it was run, once it has been."""


class Ours:
    """This project's sampler, with its own choice of batches; steps that are kept for calls alike where they are compiled."""

    def __init__(self, drawing: Drawing, dtype: torch.dtype, compile: bool = False) -> None:
        self.name, self.dtype = f"bon{' compiled' if compile else ''}, {short(dtype)}", dtype
        self.drawing, self.compile = drawing, compile
        self.steps, self.taken = CapturedSteps(), ""
        self.model = model_in(drawing.policy, dtype)

    def speed(self, n: int) -> float:
        """As `Contender.speed`."""
        tokenizer, prompts = self.drawing.policy.tokenizer, self.drawing.prompts
        options = self.drawing.options()

        def draw() -> int:
            pool = generate_candidates(self.model, tokenizer, prompts, n, compile=self.compile, **options)
            self.taken = pool.metadata["steps"]
            return int(pool.lengths.sum())

        with captured_steps_kept(self.steps) if self.compile else nullcontext():
            return per_second(draw)

    def note(self, n: int) -> str:
        """How its steps were run, where that is not what was asked for; it takes no settings."""
        return f"steps: {self.taken}" if self.compile and self.taken != "compiled" else ""


class _AtItsBest(ABC):
    """A rival with a setting to choose: the first run for an n tries every value and keeps the fastest."""

    def __init__(self, drawing: Drawing, dtype: torch.dtype, settings: Sequence[int], unit: str) -> None:
        self.dtype, self.drawing, self.settings, self.unit = dtype, drawing, settings, unit
        self.best: dict[int, int] = {}

    def speed(self, n: int) -> float:
        """As `Contender.speed`."""
        if n in self.best:
            return self.speed_at(n, self.best[n])
        speeds = {setting: self.speed_at(n, setting) for setting in self.settings}
        self.best[n] = max(speeds, key=lambda setting: speeds[setting])
        return speeds[self.best[n]]

    def note(self, n: int) -> str:
        """The setting that was the fastest."""
        return f"{self.best[n]} {self.unit}"

    @abstractmethod
    def speed_at(self, n: int, setting: int) -> float:
        """Tokens a second with this setting."""


class Generate(_AtItsBest):
    """transformers' `generate(num_return_sequences=n)`; the setting is the number of prompts a call."""

    def __init__(self, drawing: Drawing, dtype: torch.dtype, batch_sizes: Sequence[int]) -> None:
        super().__init__(drawing, dtype, _useful(batch_sizes, len(drawing.prompts)), "prompts a call")
        self.name = f"transformers generate, {short(dtype)}"
        self.model = model_in(drawing.policy, dtype)

    def speed_at(self, n: int, setting: int) -> float:
        """As `_AtItsBest.speed_at`."""
        return per_second(lambda: self._draw(n, setting))

    @torch.inference_mode()
    def _draw(self, n: int, batch_size: int) -> int:
        tokens, prompts = 0, self.drawing.prompts
        for begin in range(0, len(prompts), batch_size):
            rows = [list(ids) for ids in prompts[begin : begin + batch_size]]
            batch = self.drawing.policy.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
            output = self.model.generate(**batch.to(self.model.device), num_return_sequences=n, **self.drawing.options())
            responses = output[:, batch["input_ids"].shape[1] :]
            tokens += drawn_tokens(responses, self.drawing.policy.tokenizer.eos_token_id)
        return tokens


class ContinuousBatching(_AtItsBest):
    """transformers' `generate_batch`; the setting is the most tokens in one of its batches.

    Its cache is sized for as many requests as a batch has tokens: sized by itself on a CPU, it takes most of the memory.
    It is slow there, so it draws for the first prompts only, as many as make `most_requests`.
    """

    page_size = 32
    most_requests = 512

    def __init__(self, drawing: Drawing, batch_tokens: Sequence[int] = (128, 512)) -> None:
        super().__init__(drawing, torch.float32, batch_tokens, "tokens a batch")
        self.name = "transformers continuous batching, fp32"
        # It changes the attention of the model while it runs.
        self.model = copy.deepcopy(model_in(drawing.policy, torch.float32))
        self.running: tuple[int, int] | None = None
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)

    def speed_at(self, n: int, setting: int) -> float:
        """As `_AtItsBest.speed_at`. Its manager is kept from run to run, as it would be where it serves."""
        if self.running not in (None, (n, setting)):
            self.close()
        self.running = n, setting
        return per_second(lambda: self._draw(n, setting))

    def note(self, n: int) -> str:
        """The setting that was the fastest, and how many prompts were drawn for."""
        used = len(self._prompts(n))
        return super().note(n) + ("" if used == len(self.drawing.prompts) else f", first {used} prompts")

    def close(self) -> None:
        """End its thread and free its cache."""
        self.model.destroy_cached_continuous_batching_manager()

    def _prompts(self, n: int) -> Sequence[Sequence[int]]:
        return self.drawing.prompts[: max(1, self.most_requests // n)]

    def _draw(self, n: int, batch_tokens: int) -> int:
        prompts = [list(ids) for ids in self._prompts(n)]
        longest = max(map(len, prompts)) + self.drawing.sampling.max_new_tokens
        pages = batch_tokens * (longest // self.page_size + 1)
        outputs = self.model.generate_batch(
            prompts,
            generation_config=GenerationConfig(num_return_sequences=n, **self.drawing.options()),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=self.page_size,
                num_blocks=pages,
                max_batch_tokens=batch_tokens,
                max_requests_per_batch=batch_tokens,
            ),
            persistent_manager=True,
            warmup=False,
        )
        failed = [output.error for output in outputs.values() if output.error is not None]
        if failed or len(outputs) != len(prompts) * n:
            done = len(outputs) - len(failed)
            raise UnavailableError(
                f"{done} of {len(prompts) * n} responses came back: {failed[0] if failed else 'it stopped'}"
            )
        return sum(len(output.generated_tokens) for output in outputs.values())


def per_second(draw: Callable[[], int]) -> float:
    """Divide what `draw` returns by the seconds that it takes."""
    start = time.perf_counter()
    work = draw()
    return work / (time.perf_counter() - start)


def drawn_tokens(responses: torch.Tensor, eos_token_id: int) -> int:
    """Tokens in padded responses [R, T]: those up to the first EOS, and that one.

    >>> drawn_tokens(torch.tensor([[5, 6, 0, 1], [0, 0, 0, 0], [5, 5, 5, 5]]), eos_token_id=0)
    8
    """
    ended = (responses == eos_token_id).int()
    return int((ended.cumsum(1) - ended == 0).sum())


def model_in(policy: Policy, dtype: torch.dtype) -> Any:
    """The policy's model in this type: itself, or a copy.

    Raises:
        UnavailableError: the machine would have to imitate the type.
    """
    check_units(dtype, policy.model.device)
    return policy.model if policy.model.dtype == dtype else copy.deepcopy(policy.model).to(dtype)


def _useful(batch_sizes: Sequence[int], prompts: int) -> list[int]:
    """Batch sizes without those that are no other cut: of all that hold every prompt, one is enough."""
    return sorted({min(size, prompts) for size in batch_sizes})
