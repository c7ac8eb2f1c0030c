"""Cost of best-of-n where it cannot be run: a roofline of each stage, from FLOPs counted and hardware figures published.

Throughput, not latency: machines are full of requests. A stage takes as long as the slower of its arithmetic and its memory
traffic (Williams et al. 2009); the stages of one request share the machine, so their seconds add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from suite.scaling.hardware import Accelerator, Language


@dataclass(frozen=True)
class Assumptions:
    """Assumptions that no source gives for every case; each is a choice."""

    prompt_tokens: int = 512
    response_tokens: int = 256
    prefill_efficiency: float = 0.5
    """Of the peak FLOP/s, where many tokens are read at once: prompts, and everything that the reward model reads."""
    decode_efficiency: float = 0.3
    """Of the peak FLOP/s, one token a response at a time."""
    bandwidth_efficiency: float = 0.77
    """Of the peak memory bandwidth: measured by johnmusgrave.com (see `suite.scaling.hardware`) at one response at a time."""
    memory_used: float = 0.9
    """Share of a GPU's memory for weights, keys and values: vLLM's default."""
    most_responses: int = 1024
    """At once on a machine: vLLM's default on an H100, as Ray's documentation of its processor says."""
    weights_share: float = 0.6
    """Weights may fill this share of the memory; beyond it, twice as many GPUs."""
    parallel_efficiency: float = 0.85
    """For every doubling of the GPUs that share a model."""
    prefix_read_once: bool = False
    """Whether a decoding step reads a prompt's keys and values once for all of its responses. Every engine with prefix caching
    stores them once; reading them once takes a kernel for it (see docs/experiments/scale.md), and without one every response
    reads them anew."""
    upload: float = 200e6
    """Bytes a second that a machine writes to an object store."""


@dataclass(frozen=True)
class Request:
    """GPU-seconds of one request, stage by stage; `decode_bound` says what decoding waits for."""

    gpus: int
    responses_at_once: int
    prefill: float
    decode: float
    reward: float
    write: float
    decode_bound: str

    @property
    def seconds(self) -> float:
        """Machine time: `gpus` are busy as long."""
        return self.prefill + self.decode + self.reward + self.write

    @property
    def bottleneck(self) -> str:
        """The stage that takes longest."""
        decode = f"decode ({self.decode_bound})"
        stages = {"prefill": self.prefill, decode: self.decode, "reward model": self.reward, "writing": self.write}
        return max(stages, key=lambda stage: stages[stage])

    def dollars(self, accelerator: Accelerator) -> float:
        """Of one request."""
        return self.seconds * self.gpus * accelerator.dollars_per_hour / 3600


def request(
    policy: Language,
    judge: Language,
    n: int,
    accelerator: Accelerator,
    assumed: Assumptions,
    stored_bytes: float = 0.0,
    bytes_per_weight: int = 2,
    at_once: int | None = None,
) -> Request:
    """One request by best-of-n, among as many others as fit on the machine.

    Args:
        policy: draws; a prompt is read once for its n responses.
        judge: reads every response behind its prompt, where n > 1.
        n: best of how many.
        accelerator: of which as many share the policy as its weights need.
        assumed: lengths and efficiencies.
        stored_bytes: of every candidate, 0 where none is kept.
        bytes_per_weight: 2 for BF16; 1 for FP8, whose arithmetic is twice as fast.
        at_once: responses decoded together, as many as fit unless given.
    """
    weights = policy.parameters * bytes_per_weight
    gpus = _gpus(weights, accelerator, assumed)
    speed = gpus * assumed.parallel_efficiency ** math.log2(gpus)
    flops = accelerator.flops * speed * (2 / bytes_per_weight)
    bandwidth = accelerator.bandwidth * speed * assumed.bandwidth_efficiency
    prompt, response = assumed.prompt_tokens, assumed.response_tokens
    # Responses of one prompt share its keys and values in memory, and with a kernel for it their reading too; on average half
    # of a response is there.
    context = (prompt / n if assumed.prefix_read_once else prompt) + response / 2
    if at_once is None:
        free = assumed.memory_used * accelerator.memory * gpus - weights
        at_once = max(1, min(assumed.most_responses, int(free / (policy.cache_bytes * (prompt / n + response)))))

    prefill = prompt * policy.flops / (flops * assumed.prefill_efficiency)
    arithmetic = at_once * policy.flops / (flops * assumed.decode_efficiency)
    traffic = (weights + at_once * policy.cache_bytes * context) / bandwidth
    cache_heavy = at_once * policy.cache_bytes * context > weights
    bound = "compute" if arithmetic > traffic else "bandwidth: cache" if cache_heavy else "bandwidth: weights"
    decode = n * response * max(arithmetic, traffic) / at_once
    judged = n * (prompt + response) * judge.flops if n > 1 else 0
    return Request(
        gpus=gpus,
        responses_at_once=at_once,
        prefill=prefill,
        decode=decode,
        reward=judged / (accelerator.flops * speed * assumed.prefill_efficiency),
        write=n * stored_bytes / assumed.upload,
        decode_bound=bound,
    )


def ceiling(policy: Language, accelerator: Accelerator, at_once: int, bytes_per_weight: int) -> float:
    """Tokens a second that no engine can exceed: every step reads all weights once, at the full bandwidth."""
    return at_once * accelerator.bandwidth / (policy.parameters * bytes_per_weight)


def sampling_rate(flops_per_second: float, flops_per_candidate: float, processes: int) -> float:
    """Candidates a second that so many processes draw, each on a core of its own and as fast as one alone."""
    return processes * flops_per_second / flops_per_candidate


def _gpus(weights: float, accelerator: Accelerator, assumed: Assumptions) -> int:
    gpus = 1
    while weights > assumed.weights_share * accelerator.memory * gpus:
        gpus *= 2
    return gpus
