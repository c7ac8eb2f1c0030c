"""Published figures that the simulator stands on: accelerators, prices, storage, language models, and what others measured.

Every figure has its source; what has none is named an assumption. Prices move: change them here and run
`experiments/simulate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from suite.models.flops import flops_per_token


@dataclass(frozen=True)
class Accelerator:
    """One GPU: dense BF16 FLOP/s, bytes a second of its memory, bytes of memory, dollars an hour."""

    name: str
    flops: float
    bandwidth: float
    memory: float
    dollars_per_hour: float
    source: str


#: Dollars: the middle of what specialised clouds ask on demand.
_PRICES = "https://www.mercatus-ai.com/blog/cloud-gpu-pricing"
_SPECIFICATIONS = "https://www.mercatus-ai.com/blog/a100-vs-h100-vs-h200"
A100 = Accelerator("A100 80GB", 312e12, 2.0e12, 80e9, 1.30, f"{_SPECIFICATIONS} (prices: {_PRICES}, May 2026)")
H100 = Accelerator(
    "H100 SXM", 989e12, 3.35e12, 80e9, 3.00, "https://glennklockwood.com/garden/processors/h100 (price as above)"
)
H200 = Accelerator("H200 SXM", 989e12, 4.8e12, 141e9, 4.00, f"{_SPECIFICATIONS} (price as above)")
ACCELERATORS = (A100, H100, H200)
#: Of another memory than the one above; measured on by `PUBLISHED`.
A100_40 = Accelerator("A100 40GB", 312e12, 1.555e12, 40e9, 1.10, "johnmusgrave.com, below: 75 tokens/s are 77% of its ceiling")

#: Dollars for a gigabyte and month, and for a PUT request: https://devnotes.tech/understanding-aws-s3-pricing-a-complete-cost-breakdown-with-examples
STORAGE_DOLLARS, PUT_DOLLARS = 0.023, 0.005 / 1000


@dataclass(frozen=True)
class Language:
    """The shape of a language model of the Llama family, as its configuration publishes it."""

    name: str
    layers: int
    width: int
    inner: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool = False

    @property
    def flops(self) -> int:
        """FLOPs of one token forward, counted as everywhere here (`suite.metrics.cost`) on a model without weights."""
        return _counted(self)[0]

    @property
    def parameters(self) -> int:
        """Weights, tied ones once."""
        return _counted(self)[1]

    @property
    def cache_bytes(self) -> int:
        """Keys and values of one token in BF16."""
        return 2 * 2 * self.layers * self.key_value_heads * self.width // self.heads


POLICIES = (
    Language("135M", 30, 576, 1536, 9, 3, 49_152, tied=True),  # HuggingFaceTB/SmolLM2-135M
    Language("1B", 16, 2048, 8192, 32, 8, 128_256, tied=True),  # meta-llama/Llama-3.2-1B
    Language("8B", 32, 4096, 14_336, 32, 8, 128_256),  # meta-llama/Llama-3.1-8B
    Language("70B", 80, 8192, 28_672, 64, 8, 128_256),  # meta-llama/Llama-3.1-70B
)


@dataclass(frozen=True)
class Published:
    """A throughput that somebody measured: `concurrency` responses at once; tokens a second of all responses together."""

    policy: str
    accelerator: Accelerator
    bytes_per_weight: int
    concurrency: int
    prompt_tokens: int
    response_tokens: int
    tokens_per_second: float
    engine: str
    source: str


_A100_SWEEP = "https://johnmusgrave.com/p/vllm-throughput-latency-sweep-on"
_H100_FP8 = "https://www.spheron.network/blog/vllm-vs-tensorrt-llm-vs-sglang-benchmarks"
#: The second of the sweep is 6.6 times its first, as the page says.
PUBLISHED = (
    Published("8B", A100_40, 2, 1, 1024, 128, 75, "vLLM 0.23.0", _A100_SWEEP),
    Published("8B", A100_40, 2, 8, 1024, 128, 6.6 * 75, "vLLM 0.23.0", _A100_SWEEP),
    Published("70B", H100, 1, 1, 512, 256, 120, "vLLM 0.18.0", _H100_FP8),
    Published("70B", H100, 1, 10, 512, 256, 650, "vLLM 0.18.0", _H100_FP8),
    Published("70B", H100, 1, 50, 512, 256, 1850, "vLLM 0.18.0", _H100_FP8),
    Published("70B", H100, 1, 50, 512, 256, 1920, "SGLang 0.5.9", _H100_FP8),
)


@cache
def _counted(policy: Language) -> tuple[int, int]:
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            LlamaConfig(
                num_hidden_layers=policy.layers,
                hidden_size=policy.width,
                intermediate_size=policy.inner,
                num_attention_heads=policy.heads,
                num_key_value_heads=policy.key_value_heads,
                vocab_size=policy.vocabulary,
                tie_word_embeddings=policy.tied,
            )
        )
    return flops_per_token(model), sum(parameter.numel() for parameter in model.parameters())
