"""What a teacher thinks of every prefix of many crops, and how a small model with another tokenizer learns it.

Hinton et al. (2015): the verdicts of a large model say more of a text than its label does, and they can be had for any text.
Teacher and student cut a text into different tokens, so a verdict belongs to the bytes that had been read when it was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import GPT2ForSequenceClassification, PreTrainedTokenizerBase

from suite.data.corpus import Corpus
from suite.runtime.device import autocast

FIRST_JUDGED_TOKEN = 7  # crops shorter than 8 tokens say too little to be labelled
_NEVER = 2**40  # bytes; more than any text has
LANGUAGE_SHARE = (
    0.25  # of the next token's loss beside the verdicts': a trunk that knows the language judges unseen text better
)


@dataclass
class JudgedCrops:
    """Crops as a student's token ids [M, T], and a teacher's logit of what had been read at each [M, T]; NaN: none."""

    tokens: torch.Tensor
    logits: torch.Tensor

    def batches(self, batch_size: int, seed: int) -> Iterator[JudgedCrops]:
        """Batches without end, shuffled anew each time round."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            for rows in torch.randperm(len(self.tokens), generator=generator).split(batch_size):
                rows = rows.to(self.tokens.device)
                yield JudgedCrops(self.tokens[rows], self.logits[rows])


def byte_lengths(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """How many bytes of text each token of a byte-level tokenizer stands for [V]; special ones for none.

    Byte-level BPE writes each byte as one character (Radford et al. 2019), so a token is as long as its name.
    """
    lengths = torch.zeros(len(tokenizer), dtype=torch.long)
    for name, index in tokenizer.get_vocab().items():
        lengths[index] = len(name)
    lengths[tokenizer.all_special_ids] = 0
    return lengths


@torch.no_grad()
def judge_crops(
    teacher: Any,
    teacher_tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    length: int,
    seed: int,
    batch_size: int = 256,
) -> JudgedCrops:
    """Crops of the corpus, each of its prefixes judged.

    Args:
        teacher: a classifier with one logit whose trunk reads from left to right; the crops end on its device.
        teacher_tokenizer: its tokenizer, byte-level.
        corpus: reviews in the student's tokens.
        tokenizer: the student's tokenizer, byte-level.
        count: M, crops.
        length: T, tokens of the student in a crop.
        seed: of the choice of crops.
        batch_size: crops that the teacher reads at once.
    """
    device = teacher.device
    tokens, _, inside = corpus.crops(length, torch.Generator().manual_seed(seed), count)
    own_bytes, teacher_bytes = byte_lengths(tokenizer), byte_lengths(teacher_tokenizer)
    read = (own_bytes[tokens] * inside).cumsum(1)
    logits = torch.empty(count, length, device=device)
    for rows in tqdm(torch.arange(count).split(batch_size), desc="the teacher reads", disable=None):
        texts = tokenizer.batch_decode([row[kept] for row, kept in zip(tokens[rows], inside[rows], strict=True)])
        ids = [torch.tensor(row) for row in teacher_tokenizer(texts)["input_ids"]]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=0)
        # Padding behind a text is read after all that counts, and ends where no crop ends.
        ends = torch.nn.utils.rnn.pad_sequence(
            [teacher_bytes[row].cumsum(0) for row in ids], batch_first=True, padding_value=_NEVER
        )
        with autocast(device):
            hidden = teacher.base_model(input_ids=padded.to(device), use_cache=False).last_hidden_state
            verdicts = teacher.score(hidden).squeeze(-1).float()
        last = torch.searchsorted(ends, read[rows], right=True) - 1  # the last token of the teacher within what was read
        found = verdicts.gather(1, last.clamp(min=0).to(device))
        logits[rows.to(device)] = found.masked_fill((last < 0).to(device), torch.nan)
    logits[:, :FIRST_JUDGED_TOKEN] = torch.nan
    return JudgedCrops(tokens.to(device), logits.masked_fill(~inside.to(device), torch.nan))


def student_loss(model: GPT2ForSequenceClassification, crops: JudgedCrops) -> torch.Tensor:
    """Cross-entropy between the student's verdicts and the teacher's, plus a share of that of the next tokens, in nats."""
    hidden = model.transformer(input_ids=crops.tokens).last_hidden_state
    verdicts = model.score(hidden).squeeze(-1).float()
    judged = ~crops.logits.isnan()
    # Where nothing is judged, NaN must reach neither the loss nor its gradient.
    wanted = crops.logits.nan_to_num().sigmoid()
    of_verdicts = F.binary_cross_entropy_with_logits(verdicts, wanted, weight=judged.float(), reduction="sum") / judged.sum()
    upcoming = (hidden[:, :-1] @ model.transformer.wte.weight.T).float()
    of_tokens = F.cross_entropy(upcoming.flatten(0, 1), crops.tokens[:, 1:].masked_fill(~judged[:, 1:], -100).flatten())
    return of_verdicts + LANGUAGE_SHARE * of_tokens
