"""Reviews as token ids, and the windows that models are trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from suite.data.imdb import Review


@dataclass
class Corpus:
    """Reviews as one stream of token ids [S], each ended by the end-of-text token, with the label of every token [S]."""

    tokens: torch.Tensor
    labels: torch.Tensor
    starts: torch.Tensor  # [R + 1], where each review begins; the last entry is S

    @classmethod
    def of(cls, reviews: Sequence[Review], tokenizer: PreTrainedTokenizerFast) -> Corpus:
        """The reviews, one after another."""
        ids = [[*row, tokenizer.eos_token_id] for row in tokenizer([review.text for review in reviews])["input_ids"]]
        lengths = torch.tensor([len(row) for row in ids])
        labels = torch.tensor([review.label for review in reviews])
        return cls(
            tokens=torch.from_numpy(np.concatenate([np.asarray(row) for row in ids])),
            labels=labels.repeat_interleave(lengths),
            starts=torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]),
        )

    def stream_windows(self, context: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
        """Batches [B, T] of windows that tile the stream, shifted and shuffled anew in each epoch.

        A quarter of each batch is replaced by windows that begin where a review begins, as every prompt does.
        """
        generator = torch.Generator().manual_seed(seed)
        openings = self.starts[:-1][self.starts[:-1] + context <= len(self.tokens)]
        while True:
            shift = int(torch.randint(context, (), generator=generator))
            tiles = (len(self.tokens) - shift) // context
            windows = self.tokens[shift : shift + tiles * context].view(tiles, context)
            for batch in windows[torch.randperm(tiles, generator=generator)].split(batch_size):
                chosen = openings[torch.randint(len(openings), (len(batch) // 4,), generator=generator)]
                yield torch.cat([batch[len(chosen) :], self.tokens[chosen[:, None] + torch.arange(context)]])

    def crops(
        self, length: int, generator: torch.Generator, batch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Windows [B, T] of single reviews, the label of each [B], and which tokens belong to the review [B, T].

        A quarter of the windows begins where its review begins, the others anywhere; the tail of a short one is end-of-text.
        Reviews shorter than a window come up as much less often as they are shorter: a batch is to be of text.
        """
        lengths = self.starts.diff() - 1
        review = torch.multinomial(lengths.clamp(max=length).float(), batch_size, replacement=True, generator=generator)
        begin, end = self.starts[review], self.starts[review + 1] - 1
        room = (end - begin - length // 4).clamp(min=1)
        offset = (torch.rand(batch_size, generator=generator) * room).long()
        offset[torch.rand(batch_size, generator=generator) < 0.25] = 0
        position = (begin + offset)[:, None] + torch.arange(length)
        inside = position < end[:, None]
        return self.tokens[torch.minimum(position, end[:, None])], self.labels[begin], inside
