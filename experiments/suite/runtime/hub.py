"""What lies on a model hub, as files on this machine: fetched once at one commit, then read from the cache, also offline.

Nothing of a repository is ever run, and no pickle is fetched: weights are safetensors, data is Parquet.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants, errors
from tqdm import tqdm

from suite.runtime.errors import UserError, one_line
from suite.runtime.hashing import file_digest

#: Configuration, tokenizer and weights of a model; what else a repository holds stays there.
MODEL_FILES = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors")
DATA_FILES = ("*train*.parquet",)


class _Bar(tqdm):
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("name", None)
        super().__init__(*args, **{**kwargs, "disable": None})


def _limited(request: Any) -> None:
    """The client would wait for ever for a hub that takes a question about a repository and never answers."""
    limits = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {
        part: constants.HF_HUB_DOWNLOAD_TIMEOUT if limits.get(part) is None else limits[part]
        for part in ("connect", "read", "write", "pool")
    }


def fetched(path: str, revision: str | None, key: str, alternative: str, data: bool = False) -> Path:
    """The folder of a model's files, or of a data set's training files, at one commit; downloaded unless it is in the cache.

    The folder's name is the commit. HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are heeded.

    Args:
        path: the repository, `owner/name`.
        revision: a branch, tag, commit or pull request (`refs/pr/1`); `main` unless given.
        key: the configuration's key that names it, for the message.
        alternative: what works without a hub.
        data: whether it is a data set.

    Raises:
        UserError: it cannot be had, is not whole, or has no file that may be read; says why in a line.
    """
    where = f"{key}={path}"
    hooks = huggingface_hub.get_session().event_hooks["request"]
    if _limited not in hooks:
        hooks.append(_limited)
    huggingface_hub.utils.logging.set_verbosity_error()
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                path,
                repo_type="dataset" if data else "model",
                revision=revision,
                allow_patterns=list(DATA_FILES if data else MODEL_FILES),
                ignore_patterns=None if data else ["*/*"],
                tqdm_class=_Bar,
            )
        )
    except Exception as error:  # whatever the client raises, the user gets a line
        raise UserError(f"{where}: {_reason(error, path, revision)}; without a hub, use {alternative}") from None
    at = f"{path} at {folder.name[:12]}"
    if data and not list(folder.rglob(DATA_FILES[0])):
        raise UserError(f"{where}: {at} has no Parquet files of a training split")
    if not data and not list(folder.glob("model*.safetensors")):
        raise UserError(
            f"{where}: {at} has no model.safetensors, and pickled weights are not loaded; "
            f"name a revision that has it ({key.rpartition('.')[0]}.revision=refs/pr/1 is often such a one)"
        )
    return folder


def commit_of(folder: str | Path) -> str | None:
    """The commit of a folder that `fetched` gave, None for any other."""
    path = Path(folder)
    return path.name if path.parent.name == "snapshots" else None


def check_whole(file: Path, key: str) -> str:
    """The SHA-256 of a file from the cache. Large files lie there under the hash that the hub gave.

    Raises:
        UserError: the file is another one than the hub had.
    """
    digest = file_digest(file)
    expected = file.resolve().name
    if len(expected) == 64 and expected != digest:
        blob = file.resolve()
        raise UserError(
            f"{key}: {file.name} is damaged (SHA-256 {digest[:12]}, the hub has {expected[:12]}); remove {blob} and run again"
        )
    return digest


def _reason(error: BaseException, path: str, revision: str | None) -> str:
    """Return what went wrong, from the first cause that says it."""
    endpoint = constants.ENDPOINT
    chain = [error]
    while (following := chain[-1].__cause__ or chain[-1].__context__) is not None and following not in chain:
        chain.append(following)
    for cause in chain:
        if isinstance(cause, errors.GatedRepoError):
            return f"it is gated: ask for access at {endpoint}/{path}, then set HF_TOKEN"
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"it has no revision {revision}"
        if isinstance(cause, errors.RepositoryNotFoundError):
            return (
                f"{endpoint} has no such repository, or only for those who may see it (HF_TOKEN), and there is no such folder"
            )
        if isinstance(cause, errors.HFValidationError):
            return "neither a folder nor a name of the hub (owner/name)"
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return "not in the cache, and HF_HUB_OFFLINE forbids to ask for it"
        if isinstance(cause, errors.HfHubHTTPError) and cause.response is not None:
            return f"{endpoint} answered {cause.response.status_code} ({os.path.basename(str(cause.response.url))})"
    for cause in reversed(chain):
        name = type(cause).__name__
        if name.endswith("Timeout") or isinstance(cause, TimeoutError):
            return f"{endpoint} did not answer within {constants.HF_HUB_DOWNLOAD_TIMEOUT} s"
        if name.endswith("ConnectError") or isinstance(cause, ConnectionError):
            return f"{endpoint} cannot be reached"
    return f"the download failed ({type(error).__name__}: {one_line(error)})"
