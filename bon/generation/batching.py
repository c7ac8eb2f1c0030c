"""Batches that fit in memory: prompts sorted by length and packed, for drawing their candidates."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bon.generation.agreement import Sharing
from bon.model_facts import cache_bytes_per_token, vocabulary_size

#: Tokens (prompt and response) in one batch on a CPU: a few hundred short candidates, whose keys and values stay in its cache.
CPU_BATCH_TOKENS = 16_384
#: Logits in one batch, more of which make nothing faster: 2 GiB in single precision, and drawing holds three such tensors.
BATCH_LOGITS = 2**29
#: On a GPU, or compiled, prompts of nearly one length share a batch, padded: then a step of one shape serves more of them.
LENGTH_CLASS = 16


@dataclass(frozen=True)
class Batch:
    """A run of prompts (positions in the caller's order) and the range of candidates drawn for each."""

    positions: tuple[int, ...]
    candidates: range

    def halves(self) -> tuple[Batch, Batch]:
        """Half of the prompts and the others, or of the candidates of a single prompt."""
        if len(self.positions) > 1:
            middle = len(self.positions) // 2
            return Batch(self.positions[:middle], self.candidates), Batch(self.positions[middle:], self.candidates)
        middle = len(self.candidates) // 2
        return Batch(self.positions, self.candidates[:middle]), Batch(self.positions, self.candidates[middle:])


def pack(
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    candidates: range,
    max_batch_tokens: int,
    uniform: bool,
    max_rows: int | None = None,
    length_class: int = 1,
) -> Iterator[Batch]:
    """Prompts of like length together (so most batches need no padding), all candidates of a prompt together if they fit.

    With `uniform`, prompts share a batch only if they and their responses have the same length. Lengths are alike that are
    equal when rounded up to a multiple of `length_class`.
    """
    order = sorted(range(len(prompts)), key=lambda p: (len(prompts[p]), limits[p]))
    group: list[int] = []

    def rows(group: list[int]) -> int:
        width = max(len(prompts[p]) for p in group) + max(limits[p] for p in group)
        rows = max(1, max_batch_tokens // width)
        return rows if max_rows is None else min(rows, max_rows)

    def length(position: int) -> int:
        return -(-len(prompts[position]) // length_class)

    for position in order:
        same_length = not group or length(group[0]) == length(position)
        # A new length starts a new batch once this one is half full: then padding costs more than the empty half.
        full = (len(group) + 1) * len(candidates) > rows([*group, position])
        alike = not group or (len(prompts[group[0]]), limits[group[0]]) == (len(prompts[position]), limits[position])
        if group and (
            full or (uniform and not alike) or (not same_length and 2 * len(group) * len(candidates) >= rows(group))
        ):
            yield Batch(tuple(group), candidates)
            group = []
        group.append(position)
        if len(candidates) > rows(group):
            size = rows(group)
            for begin in range(0, len(candidates), size):
                yield Batch((position,), candidates[begin : begin + size])
            group = []
    if group:
        yield Batch(tuple(group), candidates)


def evened(batches: Iterable[Batch], prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> Iterator[Batch]:
    """The same batches, those of nearly one length cut into as many of nearly one size: rows that a step leaves idle cost too.

    The largest stays the largest: where equal parts would have more tokens than any of them had, they are left as they are.
    """

    def kind(batch: Batch) -> tuple[range, int]:
        return batch.candidates, -(-len(prompts[batch.positions[0]]) // LENGTH_CLASS)

    for (candidates, _), run in itertools.groupby(batches, kind):
        before = list(run)
        positions = [position for batch in before for position in batch.positions]
        cuts = [len(positions) * part // len(before) for part in range(len(before) + 1)]
        even = [Batch(tuple(positions[begin:end]), candidates) for begin, end in itertools.pairwise(cuts)]
        most = max(tokens_of(batch, prompts, limits) for batch in before)
        yield from even if max(tokens_of(batch, prompts, limits) for batch in even) <= most else before


def tokens_of(batch: Batch, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> int:
    """Tokens of a batch with its padding."""
    width = max(len(prompts[p]) for p in batch.positions) + max(limits[p] for p in batch.positions)
    return len(batch.positions) * len(batch.candidates) * width


def batch_tokens(model: Any, asked: int | None, shared: Sharing = Sharing.ANY) -> int:
    """The most tokens of a batch: those asked for, or `automatic_batch_tokens`; 1, a row at a time, if rows cannot share."""
    if shared in (Sharing.NONE, Sharing.BY_GENERATE):
        return 1
    return automatic_batch_tokens(model) if asked is None else asked


def automatic_batch_tokens(model: Any) -> int:
    """As many tokens as fit in half of a GPU's free memory; elsewhere a fixed number, since larger batches are slower.

    There a model may be so large that a quarter of the machine's memory is less. Its size and not what is free of it, so that
    batches, and with them the bits of a pool, are the same every time.
    """
    per_token = cache_bytes_per_token(model) + 16 * model.config.get_text_config().hidden_size
    # Logits and their copies, in single precision, weigh on one token of each row; rows are about 32 tokens long or longer.
    per_token += 5 * 4 * (vocabulary_size(model) or 0) // 32
    if model.device.type != "cuda":
        return min(CPU_BATCH_TOKENS, max(1, _machine_memory() // 4 // per_token))
    free, _ = torch.cuda.mem_get_info(model.device)
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    return max(CPU_BATCH_TOKENS, free // 2 // per_token)


def _machine_memory() -> int:
    """Bytes of memory, where the operating system tells; a laptop's otherwise."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**34
