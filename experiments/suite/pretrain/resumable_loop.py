"""Fine-tuning by a loop that can stop anywhere and go on: step t is the same in one sitting or in several.

What is made appears in its folder whole or not at all, with the log and the measurements before and after. Until then the
newest checkpoint stands in a hidden folder beside it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from suite.config.models import FinetuneConfig
from suite.runtime.device import autocast
from suite.runtime.errors import UserError
from suite.runtime.files import whole_folder

_FACTS, _LOG = "training.json", "training.jsonl"
#: Steps between two looks at losses and norms. A look makes a GPU's queue run empty.
_LOOKS_EVERY = 10
Facts = dict[str, Any]


@dataclass(frozen=True)
class Finetuning:
    """Input of one fine-tuning.

    Attributes:
        config: its settings.
        folder: where the result will stand.
        described: all that determines the result, as JSON has it.
        model: those of its parameters that want gradients are trained, without dropout.
        batches: the batches of all steps, from the first on; cheap to skip.
        loss: of a batch.
        measure: what is measured before and after, name -> number.
    """

    config: FinetuneConfig
    folder: Path
    described: Facts
    model: torch.nn.Module
    batches: Iterator[Any]
    loss: Callable[[Any], torch.Tensor]
    measure: Callable[[], dict[str, float]]


def finished(folder: Path, described: Facts) -> Facts | None:
    """The facts of a fine-tuning that is done, None where it is not.

    Raises:
        UserError: the folder holds the result of another one.
    """
    if not (folder / _FACTS).is_file():
        return None
    facts = json.loads((folder / _FACTS).read_text())
    _check_same(folder, facts["settings"], described)
    return facts


def run(training: Finetuning, save: Callable[[Path], None]) -> Facts:
    """Train from the newest checkpoint on, measure, and put the result in place.

    Args:
        training: what is trained.
        save: writes model and tokenizer into a folder.

    Returns:
        Settings, measurements `before` and `after`, tokens and seconds.

    Raises:
        UserError: there is a checkpoint of another fine-tuning.
    """
    config, model, folder = training.config, training.model, training.folder
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, config))
    kept = folder.with_name(f".{folder.name}-checkpoints")
    newest = max(kept.glob("step-*"), default=None)
    if newest is not None:
        facts, log = _restored(newest, training, trained, optimizer, scheduler)
    else:
        facts = {"settings": training.described, "before": training.measure(), "seconds": 0.0}
        log = []
    done, begin = len(log), time.perf_counter() - facts["seconds"]
    unread: list[tuple[int, float, torch.Tensor, torch.Tensor]] = []  # step, learning rate, loss, norm of the gradient
    bar = tqdm(total=config.steps, initial=done, desc=f"fine-tuning ({config.part})", unit="step", disable=None)
    with bar:
        for step, batch in enumerate(islice(training.batches, done, config.steps), done + 1):
            device = next(iter(trained.values())).device
            with autocast(device, config.precision):
                loss = training.loss(batch)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(trained.values(), config.max_grad_norm)
            rate = float(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            unread.append((step, rate, loss.detach(), norm))
            bar.update()
            keeps = step % config.checkpoint_every == 0 and step < config.steps
            if keeps or step % _LOOKS_EVERY == 0 or step == config.steps:
                log += [{"step": at, "loss": x.item(), "grad_norm": y.item(), "lr": lr} for at, lr, x, y in unread]
                unread.clear()
                facts["seconds"] = time.perf_counter() - begin
                bar.set_postfix(loss=f"{log[-1]['loss']:.3f}")
            if keeps:
                _keep(kept, facts, log, trained, optimizer, scheduler)
    facts["after"] = training.measure()
    with whole_folder(folder) as temporary:
        save(temporary)
        _write(temporary, facts, log)
    shutil.rmtree(kept, ignore_errors=True)
    return facts


def _share(step: int, config: FinetuneConfig) -> float:
    """Linear warm-up, then linear decay to zero."""
    return min((step + 1) / config.warmup_steps, 1.0) * (1 - step / config.steps)


def _write(folder: Path, facts: Facts, log: list[Facts]) -> None:
    (folder / _LOG).write_text("".join(json.dumps(row) + "\n" for row in log))
    (folder / _FACTS).write_text(json.dumps(facts, indent=1) + "\n")


def _keep(kept: Path, facts: Facts, log: list[Facts], trained: dict[str, Any], optimizer: Any, scheduler: Any) -> None:
    newest = kept / f"step-{len(log):08d}"
    with whole_folder(newest) as temporary:
        save_file({name: p.detach().contiguous() for name, p in trained.items()}, temporary / "trained.safetensors")
        torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, temporary / "optimizer.pt")
        _write(temporary, facts, log)
    for earlier in kept.glob("step-*"):
        if earlier != newest:
            shutil.rmtree(earlier)


def _restored(
    kept: Path, training: Finetuning, trained: dict[str, Any], optimizer: Any, scheduler: Any
) -> tuple[Facts, list[Facts]]:
    facts = json.loads((kept / _FACTS).read_text())
    _check_same(kept, facts["settings"], training.described)
    device = next(iter(trained.values())).device
    with torch.no_grad():
        for name, values in load_file(kept / "trained.safetensors", device=str(device)).items():
            trained[name].copy_(values)
    states = torch.load(kept / "optimizer.pt", weights_only=True, map_location=device)
    optimizer.load_state_dict(states["optimizer"])
    scheduler.load_state_dict(states["scheduler"])
    return facts, [json.loads(line) for line in (kept / _LOG).read_text().splitlines()]


def _check_same(folder: Path, there: Facts, here: Facts) -> None:
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key):
            raise UserError(
                f"{folder} is of another fine-tuning: {key}={there.get(key)} there, {key}={here.get(key)} here; "
                "delete it, or choose another output"
            )
