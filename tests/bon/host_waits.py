"""What would make a GPU wait for the host, counted operation by operation."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations whose result, or whose shape, the host has to wait for.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2", "is_nonzero"}


class Waits(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name in WAITS or (name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))
