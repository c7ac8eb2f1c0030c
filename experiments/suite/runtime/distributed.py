"""Several processes on one comparison, as torchrun starts them: who this one is, waiting, rows of all.

`accelerate` joins the processes (gloo on CPUs, NCCL on GPUs). They share the cache folder, and otherwise exchange
numbers alone. In a single process nothing here costs anything.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import sys
from datetime import timedelta

import torch
from torch import distributed

from suite.config.baselines import BaselineConfig, PPOConfig, Rule
from suite.config.run import RunConfig
from suite.models.policies import choose_device
from suite.runtime.command import UserError, located

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
    if not distributed.is_initialized():
        _join(choose_device(config.device).type == "cpu")
    _check_shared(config.cache)


def check(config: RunConfig, processes: int) -> None:
    """What must hold for a run in several processes, before they join.

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
    for holds, key, value, allowed in [engine, *_baseline_rules(config.baseline, processes)]:
        if not holds:
            raise UserError(f"{key}={value} is not allowed with {processes} processes: must be {allowed}")


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
    atexit.register(distributed.destroy_process_group)
    if not first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until this process ends
        logging.disable(logging.WARNING)


def _check_shared(cache: str) -> None:
    folder = located(cache)
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f".shared-{as_first(secrets.randbelow(2**53))}"
    if first():
        marker.touch()
    barrier()
    seen = total(marker.exists())
    if first():
        marker.unlink()
    if seen < size():
        raise UserError(f"cache={cache}: {size() - seen} of {size()} processes do not see it; it must be on a disk they share")


def size() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def first() -> bool:
    """Whether this is the process that speaks and writes results."""
    return rank() == 0


def determining() -> dict[str, int]:
    """The number of processes as an entry among all that determines a training's result; none where there is one process."""
    return {"processes": size()} if size() > 1 else {}


def share(rows: int) -> slice:
    """This process's part of so many rows, which `size()` divides."""
    own = rows // size()
    return slice(rank() * own, (rank() + 1) * own)


def gathered(rows: torch.Tensor) -> torch.Tensor:
    """The rows [R, ...] of every process, in their order: [sum of R, ...]. All of them must call it; R may differ."""
    if size() == 1:
        return rows
    from accelerate import PartialState
    from accelerate.utils import gather, pad_across_processes

    device = PartialState().device
    counts = gather(torch.tensor([len(rows)], device=device)).tolist()
    every = gather(pad_across_processes(rows.to(device))).to(rows.device)
    return torch.cat([part[:count] for part, count in zip(every.chunk(size()), counts, strict=True)])


def total(number: int) -> int:
    """The sum of a number over all processes."""
    return int(gathered(torch.tensor([int(number)])).sum())


def as_first(number: int) -> int:
    """The first process's number, in every process."""
    return int(gathered(torch.tensor([number]))[0])


def barrier() -> None:
    """Wait until every process is here.

    Raises:
        RuntimeError: one has died, or does not come within PATIENCE.
    """
    total(0)
