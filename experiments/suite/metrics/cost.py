"""What a method costs, in tokens that the reward model reads and in model FLOPs, and when it pays off.

FLOPs are 2 a weight and token forward, 6 in training (Kaplan et al. 2020). Weights are those that multiply: embeddings that
are looked up cost nothing, the same embeddings as an output layer do. The products of attention scores are left out (here they
are a hundredth of the rest), and so is everything that is not a matrix product. Tokens are those that a perfect sampler would
read: a prompt once for all its candidates, and no padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from bon import Candidates
from bon.intervals import Interval

Array = NDArray[np.float64]

#: Column of a pool: tokens of prompt and response as the proxy counts them, a number a candidate.
PROXY_TOKENS = "proxy_tokens"


def _products(model: nn.Module) -> list[nn.Module]:
    """The modules of a model that multiply by a matrix, each once."""
    return [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]


def flops_per_token(model: nn.Module) -> int:
    """FLOPs of one token through the model, forward."""
    return 2 * sum(int(weight.numel()) for weight in (cast(torch.Tensor, module.weight) for module in _products(model)))


def models_of(reward: Any) -> list[nn.Module]:
    """The model behind a reward, where there is one."""
    model = getattr(reward, "model", None)
    return [model] if isinstance(model, nn.Module) else []


def scored_tokens(pool: Candidates, reward: Any) -> Array:
    """Tokens that a reward reads of every candidate, prompt and response as one text: [P, N]; a function reads none."""
    if not hasattr(reward, "count_tokens"):
        return np.zeros(pool.lengths.shape)
    counts = reward.count_tokens([text for row in pool.full_texts for text in row])
    return np.array(counts, dtype=np.float64).reshape(pool.lengths.shape)


class RewardMeter:
    """Counts the tokens that a reward reads."""

    def __init__(self, reward: Any) -> None:
        self._reward, self._before = reward, 0
        self.lap()

    def lap(self) -> int:
        """Tokens since it was last asked; a function reads none."""
        read = int(getattr(self._reward, "tokens_read", 0))
        tokens, self._before = read - self._before, read
        return tokens


class FlopMeter:
    """Counts the FLOPs of the matrix products of some models while it is open; with gradients a product counts three times.

    Attributes:
        flops: so far.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        self.flops = 0
        self._modules = list(dict.fromkeys(module for model in models for module in _products(model)))
        self._handles: list[Any] = []

    def __enter__(self) -> FlopMeter:
        self._handles = [module.register_forward_hook(self._count) for module in self._modules]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def lap(self) -> int:
        """FLOPs since it was last asked."""
        flops, self.flops = self.flops, 0
        return flops

    def _count(self, module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        tokens = output.numel() // output.shape[-1]
        self.flops += (6 if output.requires_grad else 2) * module.weight.numel() * tokens


def request_flops(pool: Candidates, policy: Any, proxy: Any) -> Array:
    """FLOPs of answering one request by best-of-n of the pool's policy, for every n and prompt: [P, N].

    The prompt is read once, every candidate's tokens but its last; for n > 1 the proxy reads all n texts. How many tokens
    that are stands in the pool; where it does not, the policy's own count is taken.

    Args:
        pool: P prompts with N candidates each.
        policy, proxy: the models.
    """
    return request_flops_at(pool, flops_per_token(policy), flops_per_token(proxy))


def request_flops_at(pool: Candidates, policy: int, proxy: int) -> Array:
    """`request_flops` where the FLOPs of one token through the policy and through the proxy are known."""
    n = np.arange(1, pool.num_candidates + 1)
    prompt = np.array([len(ids) for ids in pool.prompt_token_ids], dtype=np.float64)[:, None]
    drawing = policy * (prompt + n * (pool.lengths.mean(1, keepdims=True) - 1))
    return drawing + proxy * _read_by_proxy(pool, pool.scores.get(PROXY_TOKENS, prompt + pool.lengths))


def request_reward_tokens(pool: Candidates) -> Array | None:
    """Tokens that the proxy reads to answer one request by best-of-n, for every n and prompt: [P, N].

    One draw is not scored. None where the pool does not say what the proxy read.
    """
    return _read_by_proxy(pool, pool.scores[PROXY_TOKENS]) if PROXY_TOKENS in pool.scores else None


def _read_by_proxy(pool: Candidates, tokens: Array) -> Array:
    n = np.arange(1, pool.num_candidates + 1)
    return np.where(n > 1, n, 0) * tokens.mean(1, keepdims=True)


@dataclass(frozen=True)
class Costs:
    """In FLOPs: a tuned policy's training, a request to it, and a request by best-of-n of the base policy [N]."""

    training: float
    tuned: float
    best_of_n: Array


class BreakEven(NamedTuple):
    """After how many requests training has paid for itself; infinite where it never does.

    Attributes:
        requests: against best-of-n of equal gold reward.
        censored: best-of-n reached the tuned policy's reward with none of the n that were drawn, so that training pays off
            after at most this many.
        low_censored: so it is with the low end of the interval: the true one lies between 0 and it.
    """

    requests: Interval
    censored: bool
    low_censored: bool


def break_even(costs: Costs, equivalent_n: Interval) -> BreakEven:
    """training / (cost of a request by best-of-n of equal reward - cost of a request to the tuned policy).

    The interval is that of the equivalent n; what costs scatter is small beside it.

    Args:
        costs: of the tuned policy and of best-of-n.
        equivalent_n: the n of equal gold reward, from `bon.tradeoffs.frontier.equivalent_n`.
    """
    ns = np.arange(1, len(costs.best_of_n) + 1)

    def requests(n: float) -> float:
        saved = float(np.interp(min(n, len(ns)), ns, costs.best_of_n)) - costs.tuned
        return costs.training / saved if saved > 0 else math.inf

    # More candidates for the same reward: training pays off sooner.
    value, low, high = (np.asarray(requests(float(n))) for n in (equivalent_n.value, equivalent_n.high, equivalent_n.low))
    return BreakEven(Interval(value, low, high), math.isinf(equivalent_n.value), math.isinf(equivalent_n.high))
