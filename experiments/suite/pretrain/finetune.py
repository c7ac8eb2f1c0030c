"""Results of a fine-tuning: a policy that knows film reviews, or a classifier on the first layers of its trunk."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification

from suite.config.models import FinetuneConfig
from suite.config.run import TaskConfig
from suite.data import imdb
from suite.data.corpus import Corpus
from suite.data.tasks import read_reviews
from suite.models.policies import Policy, load_policy
from suite.pretrain.distillation import FIRST_JUDGED_TOKEN
from suite.pretrain.embedded_models import language_loss
from suite.pretrain.held_out import CROPS, accuracy, held_out_perplexity
from suite.pretrain.resumable_loop import Facts, Finetuning, finished, run
from suite.runtime.device import choose_device, mixes, quick_products
from suite.runtime.errors import UserError
from suite.runtime.hashing import write_checksums
from suite.runtime.paths import located

CHARACTERS_PER_TOKEN = 5
Splits = Mapping[str, Sequence[imdb.Review]]


def read_splits(task: TaskConfig) -> Splits:
    """The reviews that a task names, in their splits.

    Raises:
        UserError: they cannot be had.
    """
    return imdb.split_reviews(read_reviews(task)[0])


def finetune(config: FinetuneConfig, splits: Splits) -> tuple[Path, Facts, bool]:
    """Make `config.part` from the reviews.

    Returns:
        Its folder, the facts of its training, and whether it had been made before.

    Raises:
        UserError: a model cannot be loaded, or the folder holds another fine-tuning's.
    """
    config.check()
    device = choose_device(config.device)
    mixes(device, config.precision, "precision")  # refuses what the device cannot do
    quick_products(device)  # of what is measured; training mixes precisions
    # What is trained are weights in single precision, whatever the policy is sampled in.
    config.policy.dtype = "float32"
    base = load_policy(config.policy, device)
    context = getattr(base.model.config, "max_position_embeddings", config.context)
    if config.context > context:
        raise UserError(f"context={config.context} is not allowed: must be at most {context}, the policy's own")
    folder = located(config.output) / config.part
    described = _described(config, base)
    facts = finished(folder, described)
    if facts is not None:
        return folder, facts, True
    make = _policy if config.part == "policy" else _classifier
    facts = make(config, base, splits, folder, described)
    write_checksums(folder.parent)
    return folder, facts, False


def _described(config: FinetuneConfig, base: Policy) -> Facts:
    """All that determines the result, as JSON has it."""
    elsewhere = ("output", "device", "precision", "checkpoint_every", "policy", "task")
    settings = {key: value for key, value in asdict(config).items() if key not in elsewhere}
    if config.part == "policy":
        del settings["layers"], settings["held_out_crops"]
    else:
        del settings["held_out_windows"]
    data = {f"task.{key}": value for key, value in asdict(config.task).items() if key in ("source", "path", "revision")}
    return {**settings, **data, "base": base.digest, "mixed": mixes(base.model.device, config.precision)}


def adapted(model: Any, rank: int, task: str) -> Any:
    """The model with LoRA adapters of this rank on all its inner matrices, which alone are trained; rank 0: as it is.

    The adapters are scaled by 2 (`lora_alpha` = 2 x rank), so that one learning rate serves all ranks.
    """
    if rank == 0:
        return model
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type=task)
    with warnings.catch_warnings():
        # peft still uses a name that transformers 5.23 has renamed, and finds out by itself how GPT-2 lays out its matrices.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out is set to False.*", category=UserWarning)
        return get_peft_model(model, config)


def merged(model: Any) -> Any:
    """The plain model, with what adapters learned added to its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def _enough(reviews: Sequence[imdb.Review], config: FinetuneConfig) -> list[imdb.Review]:
    """Reviews of about twice the tokens that the steps read, or all: a few steps need not wait until all are tokenized.

    They come in the order of the lower digits of their keys, which no split depends on.
    """
    mixed = sorted(reviews, key=lambda review: review.key * 2**32 % 1)
    characters = np.cumsum([len(review.text) for review in mixed])
    wanted = 2 * CHARACTERS_PER_TOKEN * config.steps * config.batch_size * config.context
    return mixed[: int(np.searchsorted(characters, wanted)) + 1]


def _policy(config: FinetuneConfig, base: Policy, splits: Splits, folder: Path, described: Facts) -> Facts:
    """The policy on the text that the embedded one learned from, each review ended by the end-of-text token."""
    device, tokenizer = base.model.device, base.tokenizer
    torch.manual_seed(config.seed)  # adapters begin at random
    model = adapted(base.model, config.lora_rank, "CAUSAL_LM")
    texts = _enough([review for name in imdb.TRAINING_SPLITS for review in splits[name]], config)
    training = Corpus.of(texts, tokenizer)

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens.to(device)
        return language_loss(model(input_ids=tokens, use_cache=False).logits.float(), tokens)

    def measure() -> dict[str, float]:
        found = held_out_perplexity(model, tokenizer, splits["held_out"], config.context, config.held_out_windows)
        return {"perplexity per token": found.per_token, "perplexity per byte": found.per_byte}

    def save(target: Path) -> None:
        merged(model).save_pretrained(target)
        tokenizer.save_pretrained(target)

    batches = training.stream_windows(config.context, config.batch_size, config.seed)
    return run(Finetuning(config, folder, described, model, batches, loss, measure), save)


def _classifier(config: FinetuneConfig, base: Policy, splits: Splits, folder: Path, described: Facts) -> Facts:
    """Sentiment at every position of a crop, as the embedded proxy learned it, from the labels of the part's own split."""
    device, tokenizer = base.model.device, base.tokenizer
    shape = AutoConfig.from_pretrained(base.folder, revision=config.policy.revision)
    if config.layers > shape.num_hidden_layers:
        raise UserError(f"layers={config.layers} is not allowed: must be at most {shape.num_hidden_layers}, the policy's own")
    shape.num_hidden_layers = config.layers
    shape.num_labels, shape.id2label, shape.label2id = 1, {0: "POSITIVE"}, {"POSITIVE": 0}
    shape.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(config.seed)  # so does the head
    plain = AutoModelForSequenceClassification.from_pretrained(
        base.folder, revision=config.policy.revision, config=shape, dtype=torch.float32
    ).to(device)
    model = adapted(plain, config.lora_rank, "SEQ_CLS")
    training = Corpus.of(_enough(splits[config.part], config), tokenizer)
    held_out = Corpus.of(splits["held_out"], tokenizer)

    def crops() -> Iterator[tuple[torch.Tensor, ...]]:
        generator = torch.Generator().manual_seed(config.seed)
        while True:
            yield training.crops(config.context, generator, config.batch_size)

    def loss(crop: tuple[torch.Tensor, ...]) -> torch.Tensor:
        tokens, labels, inside = crop
        judged = inside.clone()
        judged[:, :FIRST_JUDGED_TOKEN] = False
        # Chosen on the CPU: a GPU would stop to tell how many there are.
        places, targets = judged.flatten().nonzero().squeeze(1), labels[:, None].expand_as(tokens)[judged].float()
        hidden = plain.base_model(input_ids=tokens.to(device), use_cache=False).last_hidden_state
        logits = plain.score(hidden).squeeze(-1).float()
        return F.binary_cross_entropy_with_logits(logits.flatten()[places.to(device)], targets.to(device))

    def measure() -> dict[str, float]:
        lengths = [length for length in CROPS if length <= config.context]
        return {f"accuracy, {length} tokens": accuracy(model, held_out, length, config.held_out_crops) for length in lengths}

    def save(target: Path) -> None:
        merged(model).save_pretrained(target)
        tokenizer.save_pretrained(target)

    return run(Finetuning(config, folder, described, model, crops(), loss, measure), save)
