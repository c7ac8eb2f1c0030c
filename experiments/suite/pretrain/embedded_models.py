"""Making of the embedded models: a byte-level BPE, a small GPT-2 policy and two sentiment classifiers.

The two classifiers are students. Each has a teacher of its own (`experiments/finetune.py part=proxy` and `part=gold`: SmolLM2,
taught the labels of the split of that name and no others), and learns what its teacher thinks of crops of the text of both
splits (`distillation.py`). The gold reward starts from the policy, the proxy from nothing and with another shape.

All three read from left to right, so one pass over a window judges every crop that starts where the window starts: position t
holds the logit of the crop that ends at t. Training every position from the eighth on therefore trains on random crops of all
lengths from 8 tokens to the whole window, and the same model judges 24-token responses and longer texts.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from bon.rewards import load_classifier
from suite.config.models import Architecture, PretrainConfig, TrainingSettings
from suite.data.corpus import Corpus
from suite.data.imdb import TRAINING_SPLITS, Review
from suite.pretrain.distillation import FIRST_JUDGED_TOKEN, JudgedCrops, judge_crops, student_loss
from suite.pretrain.muon import Muon
from suite.runtime.device import autocast, choose_device
from suite.runtime.errors import UserError
from suite.runtime.paths import located

END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"
TEACHER = "teacher.json"  # how a judge's teacher was made and how good it is


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
            recent.append(loss.detach())  # its number would make a GPU wait
            if step % 50 == 0 or step == settings.steps:
                seconds = time.perf_counter() - start
                print(f"{name} step {step} loss {torch.stack(recent).mean():.4f} seconds {seconds:.0f}", file=file, flush=True)
                recent = []
    model.eval()


def train_policy(model: GPT2LMHeadModel, corpus: Corpus, settings: TrainingSettings, log: Path) -> None:
    """Next-token training on windows that tile the corpus."""
    windows = corpus.stream_windows(settings.context, settings.batch_size, settings.seed)
    losses = (language_loss(model(input_ids=batch).logits, batch) for batch in windows)
    _loop("policy", model, settings, _optimizers(model, settings), losses, log)


def train_classifier(model: GPT2ForSequenceClassification, corpus: Corpus, settings: TrainingSettings, log: Path) -> None:
    """Sentiment at every position of a window, from the labels of the reviews."""

    def losses() -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(settings.seed)
        while True:
            tokens, labels, inside = corpus.crops(settings.context, generator, settings.batch_size)
            logits = model.score(model.transformer(input_ids=tokens).last_hidden_state).squeeze(-1)
            judged = inside.clone()
            judged[:, :FIRST_JUDGED_TOKEN] = False
            targets = labels[:, None].expand_as(logits).float()
            yield F.binary_cross_entropy_with_logits(logits[judged], targets[judged])

    _loop("proxy", model, settings, _optimizers(model, settings), losses(), log)


def train_student(
    name: str, model: GPT2ForSequenceClassification, crops: JudgedCrops, settings: TrainingSettings, log: Path
) -> None:
    """What a teacher thinks at every position of its crops; the language of the crops besides."""

    def losses() -> Iterator[torch.Tensor]:
        for batch in crops.batches(settings.batch_size, settings.seed):
            with autocast(model.device):
                loss = student_loss(model, batch)
            yield loss  # outside: what goes on until the next loss is asked for is not to be autocast

    _loop(name, model, settings, _optimizers(model, settings), losses(), log)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Half-precision safetensors beside their tokenizer: what is shipped, and what was measured."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_policy(config: PretrainConfig, splits: dict[str, list[Review]]) -> None:
    """Tokenizer and policy from the text of the training splits."""
    folder = _folder(config, "policy")
    training = [review for name in TRAINING_SPLITS for review in splits[name]]
    tokenizer = train_tokenizer([review.text for review in training], config.vocab_size)
    torch.manual_seed(config.policy.seed)
    model = GPT2LMHeadModel(gpt2_config(tokenizer, config.shape))
    train_policy(model, Corpus.of(training, tokenizer), config.policy, folder / "training.log")
    _save(model, tokenizer, folder)


def make_labelled_proxy(config: PretrainConfig, reviews: Sequence[Review], layers: int) -> None:
    """A proxy without a teacher: the policy's first layers, taught the labels of these reviews."""
    model, tokenizer = _from_policy(config, config.proxy.seed)
    model.transformer.h = model.transformer.h[:layers]
    model.config.n_layer = layers
    folder = _folder(config, "proxy")
    train_classifier(model, Corpus.of(reviews, tokenizer), config.proxy, folder / "training.log")
    _save(model, tokenizer, folder)


def make_proxy(config: PretrainConfig, splits: dict[str, list[Review]]) -> None:
    """The proxy reward: starts from nothing; its teacher has seen the labels of the split `proxy`, and nobody else has."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(Path(config.output) / "policy")
    shape = gpt2_config(tokenizer, config.proxy_shape)
    shape.num_labels, shape.id2label = 1, {0: "POSITIVE"}
    torch.manual_seed(config.proxy.seed)
    _teach("proxy", GPT2ForSequenceClassification(shape), tokenizer, config, splits)


def make_gold(config: PretrainConfig, splits: dict[str, list[Review]]) -> None:
    """The gold reward: starts from the policy; its teacher has seen the labels of the split `gold`, and nobody else has."""
    model, tokenizer = _from_policy(config, config.gold.seed)
    _teach("gold", model, tokenizer, config, splits)


def _folder(config: PretrainConfig, part: str) -> Path:
    folder = Path(config.output) / part
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _from_policy(config: PretrainConfig, seed: int) -> tuple[GPT2ForSequenceClassification, PreTrainedTokenizerFast]:
    """A classifier with the policy's trunk, and the policy's tokenizer."""
    policy = Path(config.output) / "policy"
    torch.manual_seed(seed)  # the head begins at random
    model = GPT2ForSequenceClassification.from_pretrained(policy, num_labels=1, id2label={0: "POSITIVE"}, dtype=torch.float32)
    return model, PreTrainedTokenizerFast.from_pretrained(policy)


def _teach(
    name: str,
    model: GPT2ForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    config: PretrainConfig,
    splits: dict[str, list[Review]],
) -> None:
    """Let the teacher of this name judge crops of all training text, and the model learn from them."""
    teacher_folder = located(config.teachers) / name
    if not (teacher_folder / "model.safetensors").is_file():
        raise UserError(
            f"teachers={config.teachers} has no classifier {name}: make it with experiments/finetune.py part={name}"
        )
    folder, settings = _folder(config, name), getattr(config, name)
    shutil.copy(teacher_folder / "training.json", folder / TEACHER)
    device = choose_device(config.device)
    corpus = Corpus.of([review for part in TRAINING_SPLITS for review in splits[part]], tokenizer)
    teacher = load_classifier(str(teacher_folder), dtype=torch.float32).eval().to(device)
    crops = judge_crops(
        teacher,
        AutoTokenizer.from_pretrained(teacher_folder),
        corpus,
        tokenizer,
        config.crops,
        settings.context,
        settings.seed,
    )
    del teacher
    torch.nn.Module.to(model, device)
    train_student(name, model, crops, settings, folder / "training.log")
    _save(model.cpu(), tokenizer, folder)


PARTS = {"policy": make_policy, "proxy": make_proxy, "gold": make_gold}
