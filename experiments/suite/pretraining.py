"""How the embedded models were made: a byte-level BPE, a small GPT-2 policy and two sentiment classifiers.

The two classifiers read disjoint halves of the labels and have nothing in common but the tokenizer: the proxy is the policy's
first layers, the gold reward a linear model on n-grams that begins at zero. The gold reward also reads the text of the other
half, without its labels: a first model of the same kind, which sees only gold labels, judges those reviews whole (it is right
on 88 of 100), and the verdicts it is sure of serve as labels for crops.

Both read from left to right, so one pass over a window judges every crop that starts where the window starts: position t holds
the logit of the crop that ends at t. Training every position from the eighth on therefore trains on random crops of all
lengths from 8 tokens to the whole window, and the same model judges 24-token responses and longer texts.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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
from suite.corpus import Corpus
from suite.imdb import TRAINING_SPLITS, Review
from suite.muon import Muon
from suite.ngrams import NgramConfig, NgramForSequenceClassification

END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"
LONGEST_REVIEW = 1500  # tokens; comparing all n-grams of a text with each other takes memory of its square
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
            steps=2600, batch_size=32, context=128, learning_rate=1e-3, matrix_learning_rate=0.005, seed=1
        )
    )
    proxy_layers: int = 2
    gold: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(steps=4000, batch_size=64, context=192, learning_rate=0.2, seed=2)
    )
    gold_teacher: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(steps=2000, batch_size=64, context=192, learning_rate=0.2, seed=3)
    )
    """Of the first model, whose verdicts become labels."""
    gold_buckets: int = 1 << 20
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
    """The architecture of all three models: GPT-2 without dropout (each token is seen a few times)."""
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


def language_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of tokens [B, T] under logits [B, T, V] of the positions before them, in nats."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


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


def _loop(
    name: str,
    model: PreTrainedModel,
    settings: TrainingSettings,
    optimizers: list[torch.optim.Optimizer],
    losses: Iterator[torch.Tensor],
    log: Path,
) -> None:
    """Minimise the losses one by one; a line of log each 50 steps."""
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
    windows = corpus.stream_windows(settings.context, settings.batch_size, settings.seed)
    losses = (language_loss(model(input_ids=batch).logits, batch) for batch in windows)
    _loop("policy", model, settings, _optimizers(model, settings), losses, log)


def train_classifier(model: GPT2ForSequenceClassification, corpus: Corpus, settings: TrainingSettings, log: Path) -> None:
    """Sentiment at every position of a window, by a transformer."""

    def prefix_logits(tokens: torch.Tensor) -> torch.Tensor:
        return model.score(model.transformer(input_ids=tokens).last_hidden_state).squeeze(-1)

    _loop("proxy", model, settings, _optimizers(model, settings), _sentiment_losses(prefix_logits, corpus, settings), log)


def train_ngrams(model: NgramForSequenceClassification, corpus: Corpus, settings: TrainingSettings, log: Path) -> None:
    """Sentiment at every position of a window, by n-grams: Adagrad lets rare ones learn as fast as common ones."""
    optimizer = torch.optim.Adagrad(model.parameters(), lr=settings.learning_rate, initial_accumulator_value=1e-8)
    _loop("gold", model, settings, [optimizer], _sentiment_losses(model.prefix_logits, corpus, settings), log)


def _sentiment_losses(
    prefix_logits: Callable[[torch.Tensor], torch.Tensor], corpus: Corpus, settings: TrainingSettings
) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        tokens, labels, inside = corpus.crops(settings.context, generator, settings.batch_size)
        logits = prefix_logits(tokens)
        judged = inside.clone()
        judged[:, :FIRST_JUDGED_TOKEN] = False
        targets = labels[:, None].expand_as(logits).float()
        yield F.binary_cross_entropy_with_logits(logits[judged], targets[judged])


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


def make_proxy(config: PretrainConfig, splits: dict[str, list[Review]]) -> None:
    """The proxy reward: the policy's first layers, taught the labels of the split `proxy`, which no other model has seen."""
    folder = Path(config.output) / "proxy"
    folder.mkdir(parents=True, exist_ok=True)
    policy = Path(config.output) / "policy"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(policy)
    torch.manual_seed(config.proxy.seed)
    model = GPT2ForSequenceClassification.from_pretrained(policy, num_labels=1, id2label={0: "POSITIVE"}, dtype=torch.float32)
    model.transformer.h = model.transformer.h[: config.proxy_layers]
    model.config.n_layer = len(model.transformer.h)
    train_classifier(model, Corpus.of(splits["proxy"], tokenizer), config.proxy, folder / "training.log")
    _save(model, tokenizer, folder)


def make_gold(config: PretrainConfig, splits: dict[str, list[Review]]) -> None:
    """The gold reward: n-grams and the labels of the split `gold`, which no other model has seen.

    The text of the split `proxy` is read with the labels that a first model, from the same gold labels, gives it.
    """
    folder = Path(config.output) / "gold"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(Path(config.output) / "policy")
    settings = NgramConfig(
        vocab_size=len(tokenizer),
        buckets=config.gold_buckets,
        context=config.shape.context,
        num_labels=1,
        id2label={0: "POSITIVE"},
        pad_token_id=tokenizer.pad_token_id,
    )
    teacher, model = NgramForSequenceClassification(settings), NgramForSequenceClassification(settings)
    corpus = Corpus.of(splits["gold"], tokenizer)
    train_ngrams(teacher, corpus, config.gold_teacher, folder / "teacher.log")
    more = surely_judged(teacher, splits["proxy"], tokenizer)
    train_ngrams(model, Corpus.of([*splits["gold"], *more], tokenizer), config.gold, folder / "training.log")
    _save(model, tokenizer, folder)


@torch.inference_mode()
def surely_judged(
    model: NgramForSequenceClassification, reviews: Sequence[Review], tokenizer: PreTrainedTokenizerFast
) -> list[Review]:
    """The reviews with the model's verdict on the whole text for a label, but none whose logit is below half the median."""
    texts: Any = tokenizer([review.text for review in reviews])["input_ids"]
    logits = torch.cat([model.prefix_logits(torch.tensor([ids[:LONGEST_REVIEW]]))[:, -1] for ids in texts])
    sure = logits.abs() >= 0.5 * logits.abs().median()
    return [
        replace(review, label=int(logit > 0))
        for review, logit, kept in zip(reviews, logits.tolist(), sure.tolist(), strict=True)
        if kept
    ]


PARTS = {"policy": make_policy, "proxy": make_proxy, "gold": make_gold}
