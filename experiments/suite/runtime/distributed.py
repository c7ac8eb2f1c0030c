"""Several processes on one comparison, as torchrun starts them: who this one is, waiting, rows of all.

`accelerate` joins the processes (gloo on CPUs, NCCL on GPUs). They share the cache folder, and otherwise exchange
numbers alone. In a single process nothing here costs anything.
"""

from __future__ import annotations

import torch
from torch import distributed


def size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the place of this process among them, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def first() -> bool:
    """Tell whether this is the process that prints and writes results."""
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
        RuntimeError: one has died, or does not come within the patience that they joined with.
    """
    total(0)
