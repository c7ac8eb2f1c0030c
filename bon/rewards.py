"""Rewards: callables that turn a list of texts into a float each. Here: the logit of a named class, and the checks for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from bon.candidates import Candidates

#: Texts to floats, one each. What TRL called `queries_to_scores`.
Reward = Callable[[list[str]], Sequence[float]]


class RewardError(ValueError):
    """A reward raised, or returned something that is not one finite number for each text.

    Attributes:
        candidates: what had been drawn when it happened, None where nothing was.
    """

    candidates: Candidates | None = None


class ClassifierReward:
    """The logit of one named class of a transformers sequence classifier: how surely a text is of that class, unbounded.

    For a model with a single output the reward is that output. With two classes it is the difference of their logits (the
    log-odds); with more, the class's log-odds against all others.

    TRL's example read the score of whichever class won, so a text that is surely negative scored as high as one that is
    surely positive. Here the class has to be named.

    Args:
        model: a sequence classifier.
        tokenizer: its tokenizer.
        label: the class, as in the model's `id2label`.
        batch_tokens: padded tokens in one forward pass.
        max_length: tokens kept of a text; the model's context unless given.

    Raises:
        ValueError: the classifier has no such label; its labels are listed.
    """

    def __init__(
        self, model: Any, tokenizer: Any, label: str, *, batch_tokens: int = 8192, max_length: int | None = None
    ) -> None:
        labels = {int(index): name for index, name in model.config.id2label.items()}
        matches = [index for index, name in labels.items() if name == label]
        if not matches:
            raise ValueError(f"the classifier has no label {label!r}; its labels are {', '.join(map(repr, labels.values()))}")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.label = label
        self.index = matches[0]
        self.batch_tokens = batch_tokens
        context = getattr(model.config, "max_position_embeddings", None) or 512
        self.max_length = max_length or min(context, getattr(tokenizer, "model_max_length", None) or context)
        # Causal classifiers find the last token of a text by the padding id of their config; without one, transformers
        # refuses batches of more than one text.
        pad = getattr(model.config, "pad_token_id", None)
        self._alone = pad is None
        self._pad = 0 if pad is None else pad
        self.tokens_read = 0

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Rewards [len(texts)]. An empty text is judged from the end-of-sequence token alone."""
        rows = self._encoded(texts)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        rewards = np.zeros(len(rows))
        begin = 0
        while begin < len(order):
            end = begin + 1
            while not self._alone and end < len(order) and (end + 1 - begin) * len(rows[order[end]]) <= self.batch_tokens:
                end += 1
            batch = order[begin:end]
            rewards[batch] = self._rewards([rows[i] for i in batch])
            begin = end
        self.tokens_read += sum(map(len, rows))
        return rewards.tolist()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens that the classifier reads of each text [len(texts)], without running it."""
        return [len(row) for row in self._encoded(texts)]

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"] if texts else []
        return [ids or [self.tokenizer.eos_token_id or 0] for ids in encoded]

    def _rewards(self, rows: list[list[int]]) -> NDArray[np.float64]:
        device = self.model.device
        width = max(map(len, rows))
        # Padding stands on the right, where a causal classifier never looks and a bidirectional one is told not to.
        ids = torch.tensor([row + [self._pad] * (width - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        logits = self.model(input_ids=ids, attention_mask=mask).logits.double()
        if logits.shape[1] == 1:
            reward = logits[:, 0]
        else:
            others = torch.cat([logits[:, : self.index], logits[:, self.index + 1 :]], 1)
            reward = logits[:, self.index] - others.logsumexp(1)
        return reward.cpu().numpy()


def checked_scores(reward: Reward, texts: list[str], first: int = 0) -> NDArray[np.float64]:
    """The reward of every text [len(texts)], checked.

    Args:
        reward: what is called.
        texts: what it reads.
        first: the number by which errors call the first of them.

    Raises:
        RewardError: the reward raised, returned another number of scores, or one that is not a finite number; the message
            names the first such text.
    """
    try:
        returned = reward(texts)
    except Exception as error:
        raise RewardError(f"the reward raised {type(error).__name__}: {error}") from error
    if isinstance(returned, torch.Tensor):
        returned = returned.detach().cpu().double().numpy()
    if isinstance(returned, np.ndarray):
        returned = returned.reshape(-1)
    if isinstance(returned, str | bytes | Mapping) or not isinstance(returned, Iterable):
        raise RewardError(f"the reward returned {type(returned).__name__}, not one number for each of {len(texts)} texts")
    scores: list[Any] = list(returned)
    if len(scores) != len(texts):
        without = f", none for text {first + len(scores)}: {_shown(texts[len(scores)])}" if len(scores) < len(texts) else ""
        raise RewardError(f"the reward returned {len(scores)} scores for {len(texts)} texts{without}")
    checked = np.empty(len(texts))
    for index, (score, text) in enumerate(zip(scores, texts, strict=True)):
        try:
            checked[index] = _number(score)
        except Exception:  # anything may be in there
            raise RewardError(f"the reward of text {first + index} is {score!r}, not a number: {_shown(text)}") from None
        if not math.isfinite(checked[index]):
            raise RewardError(f"the reward of text {first + index} is {checked[index]}, not finite: {_shown(text)}")
    return checked


def _number(score: Any) -> float:
    """A number, also from a tensor on any device, an array or a list that holds one."""
    if isinstance(score, torch.Tensor):
        score = score.item()
    while isinstance(score, np.ndarray | list | tuple):
        (score,) = score
    if isinstance(score, str | bytes | bool | np.bool_):  # float() would take "1.5", and True for 1
        raise TypeError
    return float(score)


def _shown(text: str, most: int = 80) -> str:
    """A text in a line, both ends of a long one: its beginning is the prompt, which many have in common."""
    return repr(text if len(text) <= most else f"{text[: most // 2 - 3]} ... {text[-most // 2 + 2 :]}")


def score_candidates(candidates: Candidates, *, progress: bool = False, **rewards: Reward) -> Candidates:
    """The pool with one column of scores [P, N] for every named reward; each sees prompt and response as one text.

    >>> scored = score_candidates(candidates, proxy=lambda texts: [len(t) for t in texts])    # doctest: +SKIP

    Raises:
        TypeError: no reward.
        RewardError: as `checked_scores`, texts being numbered from the first prompt's first candidate on; its `candidates`
            holds the pool with what was scored before.
    """
    if not rewards:
        raise TypeError("score_candidates() needs a reward by its name, for example proxy=reward")
    for name, reward in rewards.items():
        columns = []
        try:
            rows = candidates.full_texts
            block = max(1, 4096 // candidates.num_candidates)
            with tqdm(total=len(rows), desc=f"scoring ({name})", unit="prompt", disable=None if progress else True) as bar:
                for begin in range(0, len(rows), block):
                    part = [text for row in rows[begin : begin + block] for text in row]
                    first = begin * candidates.num_candidates
                    columns.append(checked_scores(reward, part, first).reshape(-1, candidates.num_candidates))
                    bar.update(len(columns[-1]))
        except RewardError as error:
            error.candidates = candidates
            raise
        candidates = candidates.with_scores(**{name: np.concatenate(columns)})
    return candidates
