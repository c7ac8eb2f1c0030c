"""The files of a model before it is loaded: where they are, whether they are whole, and whether they belong together."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, AutoTokenizer

from suite.config.run import JudgeConfig, PolicyConfig
from suite.runtime import hub
from suite.runtime.errors import UserError, one_line
from suite.runtime.hashing import CHECKSUMS
from suite.runtime.paths import found, located

EMBEDDED = "experiments/models"
WEIGHTS = "model*.safetensors"
Located = TypeVar("Located", PolicyConfig, JudgeConfig)
#: A model may have a few more token ids than its tokenizer (to be a multiple of 128); below this share they do not match.
_LEAST_SHARE = 0.9


def here(config: Located, key: str, alternative: str) -> Located:
    """The same model with a folder of this machine as its path; what lies on a hub is downloaded.

    Raises:
        UserError: the hub does not give it.
    """
    folder = found(config.path)
    if not folder.exists():
        if config.path.startswith((".", "/", "~", "experiments/", "cache/")):
            return replace(config, path=str(folder), revision=None)
        folder = hub.fetched(config.path, config.revision, f"{key}.path", alternative)
    return replace(config, path=str(folder), revision=None)


def weights_digest(path: str, key: str) -> str:
    """The SHA-256 of a folder's weights; of the hashes, where there are several files.

    Raises:
        UserError: a file is missing, or is not the one that it should be.
    """
    folder = found(path)
    weights = sorted(folder.glob(WEIGHTS)) or [folder / "model.safetensors"]
    digests = [_checked(file, key) for file in weights]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _checked(weights: Path, key: str) -> str:
    sums = weights.parent.parent / CHECKSUMS
    expected = None
    if sums.is_file():
        known = {name: digest for digest, name in (line.split(maxsplit=1) for line in sums.read_text().splitlines())}
        expected = known.get(f"{weights.parent.name}/{weights.name}")
    wanted = f", expected SHA-256 {expected[:12]}" if expected else ""
    made = located("cache") in weights.parents
    if not weights.is_file():
        remedy = "weights are read from safetensors alone (model.save_pretrained writes them)"
        if made:
            remedy = "experiments/finetune.py makes it"
        elif expected or located(EMBEDDED) in weights.parents:
            remedy = "restore it (git checkout) or run experiments/pretrain.py"
        raise UserError(f"{key}: {weights} is missing{wanted}; {remedy}")
    digest = hub.check_whole(weights, key)
    if expected is not None and digest != expected:
        remedy = f"delete {weights.parent} and make it again" if made else "restore it with git checkout"
        raise UserError(f"{key}: {weights} is damaged (SHA-256 {digest[:12]}{wanted}); {remedy}")
    return digest


def check_label(judge: JudgeConfig, key: str) -> None:
    """That the classifier in a folder has the label.

    Raises:
        UserError: it has not; its labels are listed.
    """
    labels = list(_read(AutoConfig, judge.path, f"{key}.path").id2label.values())
    if judge.label not in labels:
        told = ", ".join(map(repr, labels))
        raise UserError(f"{key}.label={judge.label}: the classifier has no label {judge.label!r}; its labels are {told}")


def matching_tokenizer(path: str, key: str) -> tuple[Any, int | None]:
    """The tokenizer of a language model in a folder, and the model's context in tokens (None: without a limit).

    Raises:
        UserError: there is none, or it is another model's.
    """
    config = _read(AutoConfig, path, key).get_text_config()
    tokenizer = _read(AutoTokenizer, path, f"{key}: its tokenizer")
    known, size = len(tokenizer), config.vocab_size
    if not _LEAST_SHARE * size <= known <= size:
        raise UserError(
            f"{key}={path}: no matching tokenizer: the one there has {known} tokens, the model {size}; "
            "save the tokenizer that it was trained with beside it"
        )
    return tokenizer, getattr(config, "max_position_embeddings", None)


def _read(kind: Any, path: str, key: str) -> Any:
    try:
        return kind.from_pretrained(path)
    except Exception as error:  # tokenizers' own errors are bare exceptions
        raise UserError(f"{key}: cannot be read from {path} ({one_line(error)})") from None


def loaded(kind: Any, source: str, key: str, dtype: torch.dtype = torch.float32) -> Any:
    """Load a model or a tokenizer from a folder, weights from safetensors alone.

    Raises:
        UserError: it cannot be loaded; names the key.
    """
    options = {} if kind is AutoTokenizer else {"dtype": dtype, "use_safetensors": True}
    try:
        return kind.from_pretrained(source, **options)
    except Exception as error:  # tokenizers' and safetensors' own errors are bare exceptions
        raise UserError(f"{key}: cannot load {source} ({one_line(error)})") from None
