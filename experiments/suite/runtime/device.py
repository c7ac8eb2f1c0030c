"""Numbers on a device: which precision a model has, and when training mixes two of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from accelerate.state import AcceleratorState

from suite.runtime.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether the device computes in bfloat16 by units of its own; without them it is emulated, many times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision that a policy is sampled in: `auto` is bfloat16 on a GPU that has it, single precision elsewhere.

    Raises:
        UserError: another name, or bfloat16 on a device without it.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise UserError(f"policy.dtype={name} is not allowed: must be auto, {' or '.join(DTYPES)}")
    if DTYPES[name] is torch.bfloat16 and not has_bfloat16(device):
        raise UserError(f"policy.dtype={name}: this {device.type} has no units for it; use policy.dtype=float32")
    return DTYPES[name]


def mixes(device: torch.device, precision: str = "auto", key: str = "baseline.precision") -> bool:
    """Tell whether training on the device computes in bfloat16 beside weights in single precision.

    `auto`: on GPUs that have it. CPUs that have it are faster with it too, but what comes of a training would depend on the
    CPU: there it is asked for by its name, which `key` gives.

    Raises:
        UserError: bfloat16 is asked for on a device without it.
    """
    if precision == "auto":
        return device.type == "cuda" and has_bfloat16(device)
    if precision == "bfloat16" and not has_bfloat16(device):
        raise UserError(f"{key}=bfloat16: this {device.type} has no units for it; use {key}=float32")
    return precision == "bfloat16"


def determining(device: torch.device, precision: str) -> dict[str, str]:
    """What a training's precision adds to all that determines its result: nothing where it is what `auto` means."""
    return {"precision": precision} if mixes(device, precision) != mixes(device) else {}


def autocast(device: torch.device, precision: str = "auto") -> contextlib.AbstractContextManager[None]:
    """Matrix products inside are computed in bfloat16 where `mixes` says so; elsewhere nothing changes."""
    return torch.autocast(device.type, torch.bfloat16) if mixes(device, precision) else contextlib.nullcontext()


def quick_products(device: torch.device) -> None:
    """From now on a GPU multiplies matrices of single precision in TF32, ten bits of each factor: eight times as fast.

    Sums and what is stored keep single precision. Rewards move by a thousandth; they are none of the models that are sampled.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


@contextlib.contextmanager
def trainers_mix(device: torch.device, precision: str = "auto") -> Iterator[None]:
    """TRL's trainers that are made inside mix precisions where `mixes` says so.

    The variable is the one way that all of them heed: PPO's hands `bf16` of its settings to nobody. Accelerate reads it once
    in a process, so what it has read before is forgotten where it differs, and so is afterwards what only this training asked
    for.
    """
    name = "ACCELERATE_MIXED_PRECISION"
    before, wanted = os.environ.get(name), "bf16" if mixes(device, precision) else "no"
    os.environ[name] = wanted
    if AcceleratorState._shared_state.get("_mixed_precision", wanted) != wanted:
        AcceleratorState._reset_state()
    try:
        yield
    finally:
        if determining(device, precision):
            AcceleratorState._reset_state()
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def choose_device(name: str) -> torch.device:
    """The device of a run: `auto` takes a GPU where there is one.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name} is not allowed: must be auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}: this machine has no usable CUDA device; use device=auto or device=cpu")
    return device
