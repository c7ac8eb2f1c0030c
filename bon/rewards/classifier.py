"""The reward of a transformers sequence classifier: the logit of a named class, or the score of a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bon.model_facts import device_of, usable_positions
from bon.model_view import view_of
from bon.rewards.cutting import Row, Spans, token_rows
from bon.rewards.items import Message
from bon.rewards.loading import load_classifier


class ClassifierReward:
    """How surely a response is of one named class of a sequence classifier, unbounded; or the score of a reward model.

    For a model with a single output the reward is that output. Otherwise the model's `problem_type` decides: with two classes
    that exclude each other it is the difference of their logits (the log-odds), with more the class's log-odds against all
    others; of labels that do not exclude each other (`multi_label_classification`), or of several quantities (`regression`),
    it is the label's own output alone.

    TRL's example read the score of whichever class won, so a text that is surely negative scored as high as one that is
    surely positive. Here the class has to be named.

    What is longer than the classifier can read is cut: the prompt from its beginning, and only then the response from its end.
    A text whose prompt is not known (`reward(texts)`) is cut at its end.

    The caller's model is left as it is: what runs is a view of it (`bon.model_view`) with dropout off.

    Args:
        model: a sequence classifier.
        tokenizer: its tokenizer.
        label: the class, as in the model's `id2label`; needed if the model has several outputs.
        batch_tokens: padded tokens in one forward pass.
        max_length: tokens read of a text; what the model has room for, and its tokenizer allows, unless given.
        template: for reward models of conversations: True for the tokenizer's chat template, or a template (Jinja). Then the
            prompt is a message of the user (or `messages` are given) and the response the assistant's; special tokens are the
            template's own, no second beginning of text is put in front.

    Attributes:
        index: the output that is read.
        tokens_read: tokens read so far.
        tokens_cut: tokens of prompts that were cut so far.
        responses_cut: responses that were cut so far, because they alone are longer than what the classifier reads.

    Raises:
        ValueError: the classifier has no such label (its labels are listed), `max_length` is more than it has room for, or
            there is no such template.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        label: str | None = None,
        *,
        batch_tokens: int = 8192,
        max_length: int | None = None,
        template: bool | str = False,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.label = label
        self.index = _index(model.config, label)
        self.batch_tokens = batch_tokens
        self.max_length = _room(model, tokenizer, max_length)
        if template is True and not getattr(tokenizer, "chat_template", None):
            raise ValueError("template=True needs a tokenizer with a chat template; pass one as template='{% for ...'")
        self.template = template
        # Causal classifiers find the last token of a text by the padding id of their config; without one, transformers
        # refuses batches of more than one text.
        pad = getattr(model.config.get_text_config(), "pad_token_id", None)
        self._alone = pad is None
        self._pad = 0 if pad is None else pad
        self.tokens_read = self.tokens_cut = self.responses_cut = 0

    @classmethod
    def from_pretrained(cls, source: str, label: str | None = None, **options: Any) -> ClassifierReward:
        """Load classifier and tokenizer from a folder or the hub; options as of the class.

        Raises:
            ValueError: as the class, or the files hold no trained classifier.
        """
        from transformers import AutoTokenizer

        return cls(load_classifier(source), AutoTokenizer.from_pretrained(source), label, **options)

    @torch.inference_mode()
    def __call__(
        self,
        texts: Sequence[str] | None = None,
        *,
        prompts: Sequence[str] | None = None,
        responses: Sequence[str] | None = None,
        messages: Sequence[Sequence[Message]] | None = None,
    ) -> list[float]:
        """Rewards [R] of responses to prompts, or of whole texts. An empty text is judged from the end-of-sequence token.

        Raises:
            ValueError: nothing of a response is left beside the tokens that the classifier needs.
            TypeError: neither texts, nor prompts and responses; only texts where there is a template.
        """
        rows = self._rows(texts, prompts, responses, messages)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        rewards = np.zeros(len(rows))
        view = view_of(self.model)
        begin = 0
        while begin < len(order):
            end = begin + 1
            while not self._alone and end < len(order) and (end + 1 - begin) * len(rows[order[end]].ids) <= self.batch_tokens:
                end += 1
            batch = order[begin:end]
            rewards[batch] = self._rewards(view, [rows[i].ids for i in batch])
            begin = end
        self.tokens_read += sum(len(row.ids) for row in rows)
        self.tokens_cut += sum(row.prompt_cut for row in rows)
        self.responses_cut += sum(row.response_cut > 0 for row in rows)
        return rewards.tolist()

    def count_tokens(
        self, texts: Sequence[str], prompts: Sequence[str] | None = None, responses: Sequence[str] | None = None
    ) -> list[int]:
        """Tokens that the classifier reads of each text [len(texts)], without running it."""
        return [len(row.ids) for row in self._rows(texts, prompts, responses, None)]

    def _rows(
        self,
        texts: Sequence[str] | None,
        prompts: Sequence[str] | None,
        responses: Sequence[str] | None,
        messages: Sequence[Sequence[Message]] | None,
    ) -> list[Row]:
        if self.template:
            return self._conversations(prompts, responses, messages)
        if prompts is not None and responses is not None:
            texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
            spans = [Spans(0, len(prompt), len(text)) for prompt, text in zip(prompts, texts, strict=True)]
        elif texts is not None:
            spans = [Spans(0, 0, len(text)) for text in texts]
        else:
            raise TypeError("ClassifierReward reads texts, or prompts and responses")
        rows = token_rows(self.tokenizer, texts, spans, self.max_length)
        return [row if row.ids else Row([self.tokenizer.eos_token_id or 0]) for row in rows]

    def _conversations(
        self,
        prompts: Sequence[str] | None,
        responses: Sequence[str] | None,
        messages: Sequence[Sequence[Message]] | None,
    ) -> list[Row]:
        if messages is None:
            if prompts is None or responses is None:
                raise TypeError("a ClassifierReward with a template reads prompts and responses apart, or messages")
            messages = [
                [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
                for prompt, response in zip(prompts, responses, strict=True)
            ]
        template = None if self.template is True else self.template
        texts = [self.tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False) for chat in messages]
        spans = []
        for text, chat in zip(texts, messages, strict=True):
            answer = chat[-1]["content"].strip()  # templates strip what they are given
            response = text.rfind(answer)
            if response < 0:
                raise ValueError(f"the template does not show the response as it is: {answer[:60]!r}")
            first = text.find(chat[0]["content"].strip(), 0, response)
            spans.append(Spans(max(first, 0) if first >= 0 else response, response, response + len(answer)))
        return token_rows(self.tokenizer, texts, spans, self.max_length, special=False)

    def _rewards(self, model: Any, rows: list[list[int]]) -> NDArray[np.float64]:
        device = device_of(model)
        width = max(map(len, rows))
        # Padding stands on the right, where a causal classifier never looks and a bidirectional one is told not to.
        ids = torch.tensor([row + [self._pad] * (width - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        logits = model(input_ids=ids, attention_mask=mask).logits.double()
        reward = logits[:, self.index]
        if logits.shape[1] > 1 and model.config.problem_type not in ("multi_label_classification", "regression"):
            others = torch.cat([logits[:, : self.index], logits[:, self.index + 1 :]], 1)
            reward = reward - others.logsumexp(1)
        return reward.cpu().numpy()


def _index(config: Any, label: str | None) -> int:
    """The output of a label.

    Raises:
        ValueError: there is none of that name, or none is named among several.
    """
    labels = {int(index): name for index, name in config.id2label.items()}
    listed = ", ".join(map(repr, labels.values()))
    if label is None:
        if len(labels) > 1:
            raise ValueError(f"which label? the classifier has {listed}")
        return 0
    found = next((index for index, name in labels.items() if name == label), None)
    if found is None:
        raise ValueError(f"the classifier has no label {label!r}; its labels are {listed}")
    return found


def _room(model: Any, tokenizer: Any, max_length: int | None) -> int | None:
    """How many tokens of a text are read; None for any number."""
    room = usable_positions(model)
    if max_length is not None and room is not None and max_length > room:
        raise ValueError(f"max_length={max_length} is more than the {room} tokens that the classifier has room for")
    known = [max_length or getattr(tokenizer, "model_max_length", None), room]
    return min((int(length) for length in known if length is not None and length < 1e9), default=None)
