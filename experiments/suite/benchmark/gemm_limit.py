"""Abilities of the machine: which number formats it computes in, and how fast its matrix products are."""

from __future__ import annotations

import time

import torch

from suite.benchmark.turns import UnavailableError


class MatrixProducts:
    """The limit of every sampler: large square matrix products, as the tokens a second that their arithmetic would make."""

    def __init__(self, parameters: int, dtype: torch.dtype, device: torch.device) -> None:
        check_units(dtype, device)
        self.name, self.dtype, self.device = f"limit: matrix products, {short(dtype)}", dtype, device
        self.operations_per_token = 2 * parameters
        self.latest = 0.0

    def speed(self, n: int) -> float:
        """Tokens a second at 2 operations a parameter and token, whatever the n."""
        self.latest = gemm_limit(self.dtype, self.device)
        return self.latest / self.operations_per_token

    def note(self, n: int) -> str:
        """The same in operations a second, in the last round."""
        return f"{self.latest / 1e9:.4g} GFLOP/s"


def gemm_limit(dtype: torch.dtype, device: torch.device, repeats: int = 20) -> float:
    """Floating-point operations a second of a large square matrix product."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.linspace(-1, 1, size * size, device=device).view(size, size).to(dtype)
    (a @ a).sum().item()
    start = time.perf_counter()
    for _ in range(repeats):
        product = a @ a
    product[0, 0].item()  # a GPU answers once it is done
    return repeats * 2 * size**3 / (time.perf_counter() - start)


def short(dtype: torch.dtype) -> str:
    """The usual short name of a floating-point type.

    >>> short(torch.bfloat16)
    'bf16'
    """
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


def check_units(dtype: torch.dtype, device: torch.device) -> None:
    """Refuse bf16 where there are no units for it: its products are hundreds of times slower there, or never end.

    Raises:
        UnavailableError: there are none.
    """
    if dtype != torch.bfloat16:
        return
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = any(present for name, present in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
    if not has:
        raise UnavailableError("no bf16 units")
