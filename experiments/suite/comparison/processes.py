"""The start of a run in several processes, and what must hold for one."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import sys
from datetime import timedelta

import torch
from torch import distributed as torch_distributed

from suite.config.baselines import BaselineConfig, PPOConfig
from suite.config.rules import Rule, refuse
from suite.config.run import RunConfig
from suite.runtime import distributed
from suite.runtime.device import choose_device
from suite.runtime.errors import UserError
from suite.runtime.paths import located

#: The longest that a process waits for another that is alive but does not come. One that has died is noticed at once.
PATIENCE = timedelta(hours=1)


def start(config: RunConfig) -> None:
    """Join the other processes of this run, if torchrun started several; from here on the first alone speaks.

    Raises:
        UserError: the configuration is not one for so many processes, or they do not share the cache.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted == 1:
        return
    check(config, wanted)
    if not torch_distributed.is_initialized():
        _join(choose_device(config.device).type == "cpu")
    _check_shared(config.cache)


def check(config: RunConfig, processes: int) -> None:
    """Check a run in several processes, before they join.

    Raises:
        UserError: names the key, its value and what is allowed.
    """
    for name in ("DEEPSPEED", "FSDP"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise UserError(
                f"ACCELERATE_USE_{name}=true: weights are not sharded here; start with torchrun, "
                "see docs/experiments/processes.md"
            )
    here, device = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), choose_device(config.device)
    if device.index is not None:
        raise UserError(f"device={config.device}: {processes} processes take a device each; use device=auto, cuda or cpu")
    if device.type == "cuda" and os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true":
        raise UserError(f"ACCELERATE_USE_CPU=true: device={config.device} is a GPU here; add device=cpu, or leave it out")
    if device.type == "cuda" and here > torch.cuda.device_count():
        raise UserError(
            f"--nproc_per_node={here}: this machine has {torch.cuda.device_count()} GPUs, one process takes one; "
            "start fewer, or use device=cpu"
        )
    engine = (config.engine.name == "local", "engine", config.engine.name, "local (the others start processes of their own)")
    refuse([engine, *_baseline_rules(config.baseline, processes)], f" with {processes} processes")


def _baseline_rules(baseline: BaselineConfig, processes: int) -> list[Rule]:
    if not isinstance(baseline, PPOConfig):
        return [
            (baseline.name == "none", "baseline", baseline.name, "ppo or none (the others train in one: without torchrun)")
        ]
    shares = processes * baseline.num_mini_batches
    return [
        (
            baseline.batch_size % shares == 0,
            "baseline.batch_size",
            baseline.batch_size,
            f"a multiple of {shares}: a share for each process, in baseline.num_mini_batches={baseline.num_mini_batches}",
        ),
        (
            not baseline.whiten_rewards or baseline.batch_size >= 8 * shares,
            "baseline.batch_size",
            baseline.batch_size,
            f"at least {8 * shares} with baseline.whiten_rewards=true: 8 responses in each mini-batch of each process",
        ),
    ]


def _join(cpu: bool) -> None:
    from accelerate import PartialState

    os.environ["ACCELERATE_USE_CPU"] = str(cpu).lower()  # also for the trainers, which ask again
    PartialState(cpu=cpu, timeout=PATIENCE)
    atexit.register(torch_distributed.destroy_process_group)
    if not distributed.first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until this process ends
        logging.disable(logging.WARNING)


def _check_shared(cache: str) -> None:
    folder = located(cache)
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f".shared-{distributed.as_first(secrets.randbelow(2**53))}"
    if distributed.first():
        marker.touch()
    distributed.barrier()
    seen = distributed.total(marker.exists())
    size = distributed.size()
    if distributed.first():
        marker.unlink()
    if seen < size:
        raise UserError(f"cache={cache}: {size - seen} of {size} processes do not see it; it must be on a disk they share")
