"""The prompts of a task, whichever source they have: read and counted first, made into token ids once there is a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from suite.config.run import RunConfig, TaskConfig
from suite.data import imdb
from suite.data.prompt_files import read_prompts
from suite.runtime.errors import UserError
from suite.runtime.hub import fetched

#: From a tokenizer's function and the policy's context to token ids by split.
Encoder = Callable[[Callable[[str], list[int]], int | None], dict[str, list[list[int]]]]


@dataclass(frozen=True)
class Task:
    """Prompts that a run can draw from.

    Attributes:
        available: split -> number of prompts before they are token ids; fewer may remain in training (`apart`).
        encoded: token ids [prompts][tokens] of every prompt, by split.
        facts: what the manifest says of the data.
    """

    available: dict[str, int]
    encoded: Encoder
    facts: dict[str, Any]


def read_task(config: RunConfig) -> Task:
    """Read the data that `config.task` names, and check that it holds what the run asks for.

    Raises:
        UserError: it cannot be had, or holds too few prompts.
    """
    task = _file_task(config) if config.task.prompts is not None else _review_task(config)
    check_enough(config, task.available)
    return task


def check_enough(config: RunConfig, available: dict[str, int], note: str = "") -> None:
    """Refuse a run that asks for more prompts than the splits have.

    Args:
        available: split -> number of prompts.
        note: what the number of training prompts leaves out.

    Raises:
        UserError: names the key, and how many prompts there are.
    """
    file = config.task.prompts
    whole = f" ({sum(available.values())} different prompts in {file}, split in halves by their hash)" if file else ""
    if config.num_prompts > available["evaluation"]:
        raise UserError(f"num_prompts={config.num_prompts}: the evaluation split has {available['evaluation']} prompts{whole}")
    key, value, needed = config.baseline.prompts_needed
    if needed > available["ppo"]:
        raise UserError(f"{key}={value}: the training split has {available['ppo']} prompts{note}, this takes {needed}{whole}")


def read_reviews(task: TaskConfig) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """The labelled reviews that a task names, as (raw text, label), and what the manifest says of them.

    Raises:
        UserError: they cannot be had.
    """
    if task.prompts is not None:
        raise UserError(f"task.prompts={task.prompts}: a file of prompts holds no labelled reviews")
    if task.source == "hub":
        folder = fetched(str(task.path), task.revision, "task.path", "task=imdb", data=True)
        return imdb.read_hub(folder), {"source": "hub", "path": task.path, "revision": folder.name}
    try:
        return imdb.read_wheel(), {"source": "wheel", "sha256": imdb.WHEEL_CSV_SHA256}
    except FileNotFoundError as error:
        raise UserError(f"task={task.name}: {error}") from None


def _review_task(config: RunConfig) -> Task:
    task, new = config.task, config.sampling.max_new_tokens
    raw, facts = read_reviews(task)
    splits = imdb.split_reviews(raw)

    def encoded(encode: Callable[[str], list[int]], context: int | None) -> dict[str, list[list[int]]]:
        low, high = task.min_prompt_tokens, task.max_prompt_tokens
        if context is not None and high + new > context:
            raise UserError(
                f"sampling.max_new_tokens={new} with task.max_prompt_tokens={high} does not fit into the policy's context "
                f"of {context} tokens"
            )
        prompts = apart({split: imdb.make_prompts(splits[split], encode, low, high) for split in imdb.PROMPT_SPLITS})
        check_enough(config, {split: len(rows) for split, rows in prompts.items()}, " that are no evaluation prompts too")
        return prompts

    long_enough = {
        split: sum(len(review.text) > imdb.MIN_PROMPT_REVIEW_CHARS for review in splits[split]) for split in imdb.PROMPT_SPLITS
    }
    return Task(long_enough, encoded, facts)


def apart(prompts: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
    """Return prompts by split, the training prompts without those that are evaluation prompts too.

    Different reviews begin alike ("This movie is"): of what is evaluated nothing may have been trained on.

    >>> apart({"evaluation": [[1, 2]], "ppo": [[1, 2], [1, 3]]})["ppo"]
    [[1, 3]]
    """
    evaluated = {tuple(ids) for ids in prompts["evaluation"]}
    return {**prompts, "ppo": [ids for ids in prompts["ppo"] if tuple(ids) not in evaluated]}


def _file_task(config: RunConfig) -> Task:
    file = read_prompts(str(config.task.prompts), config.task.column)
    return Task(
        {split: len(prompts) for split, prompts in file.splits.items()},
        lambda encode, context: file.encoded(encode, context, config.sampling.max_new_tokens),
        {"source": "file", "path": str(config.task.prompts), "sha256": file.digest},
    )
