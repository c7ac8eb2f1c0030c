"""Prompts in every form that users have: one reading, the same token ids."""

import numpy as np
import pytest
import torch
from tokenizers import processors

from bon import BestOfNSampler, draw_while_worth, generate_candidates, speculative_rejection
from bon.generation.queries import prompt_token_ids

TEXTS = ["w10 w11 w12", "w13 w14"]
IDS = [[10, 11, 12], [13, 14]]
CHATS = [[{"role": "user", "content": text}] for text in TEXTS]


@pytest.fixture
def chatting(build_tokenizer):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return tokenizer


FORMS = {
    "texts": lambda tokenizer: TEXTS,
    "tuple of texts": lambda tokenizer: tuple(TEXTS),
    "chats": lambda tokenizer: CHATS,
    "lists": lambda tokenizer: IDS,
    "arrays": lambda tokenizer: [np.array(ids) for ids in IDS],
    "tensors": lambda tokenizer: [torch.tensor(ids) for ids in IDS],
    "encoding of lists": lambda tokenizer: tokenizer(TEXTS),
    "padded encoding": lambda tokenizer: tokenizer(TEXTS, padding=True, return_tensors="pt"),
    "padded on the right": lambda tokenizer: tokenizer(TEXTS, padding=True, padding_side="right", return_tensors="np"),
    "dict": lambda tokenizer: dict(tokenizer(TEXTS, padding=True, return_tensors="pt")),
    "padded tensor": lambda tokenizer: tokenizer(TEXTS, padding=True, return_tensors="pt").input_ids,
    "padded lists": lambda tokenizer: tokenizer(TEXTS, padding=True)["input_ids"],
    "encodings": lambda tokenizer: [tokenizer(text) for text in TEXTS],
    "template, encoding": lambda tokenizer: tokenizer.apply_chat_template(CHATS, padding=True, return_tensors="pt"),
    "template, ids": lambda tokenizer: tokenizer.apply_chat_template(CHATS, return_dict=False),
    "mixed": lambda tokenizer: [TEXTS[0], IDS[1]],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_prompts(form, chatting):
    assert prompt_token_ids(chatting, FORMS[form](chatting)) == IDS


@pytest.mark.parametrize("form", ["padded encoding", "padded tensor", "chats"])
def test_everything_that_draws_reads_it(form, gpt2, chatting):
    prompts = FORMS[form](chatting)
    reward = lambda texts: [float(len(text)) for text in texts]  # noqa: E731
    pools = [
        generate_candidates(gpt2, chatting, prompts, 2, max_new_tokens=3),
        BestOfNSampler(gpt2, chatting, reward, lambda: 3, seed=0).sample(prompts),
        speculative_rejection(gpt2, chatting, prompts, 2, reward, lengths=[1], max_new_tokens=3).candidates,
        draw_while_worth(gpt2, chatting, prompts, 4, reward, cost=0.1, minimum=3, max_new_tokens=3).best,
    ]
    assert all(pool.prompt_token_ids == IDS for pool in pools)


@pytest.mark.parametrize("prompts", [[10, 11, 12], CHATS[0]], ids=["token ids", "messages"])
def test_one_prompt_needs_no_list_around_it(prompts, chatting):
    assert prompt_token_ids(chatting, prompts) == IDS[:1]


@pytest.mark.parametrize("kind", [float, bool])
def test_a_mask_of_other_numbers_is_one_of_ones_and_noughts(kind, chatting):
    query, mask = [[0, 13, 14], [10, 11, 12]], [[kind(0), kind(1), kind(1)], [kind(1)] * 3]
    for form in (mask, np.array(mask), torch.tensor(mask)):
        assert prompt_token_ids(chatting, query, form) == IDS[::-1]


@pytest.mark.parametrize(
    ("prompts", "mask", "message"),
    [
        ("w10 w11", None, "prompts must hold token ids .* got str"),
        ([[10.7, 11.2]], None, "prompt 0 must be a list of integer token ids, got float64"),
        (torch.tensor([[10.0, 11.0]]), None, "prompt 0 must be a list of integer token ids, got float32"),
        ({"tokens": [[10]]}, None, "prompts is a mapping of tokens: one with input_ids is read"),
        ({"input_ids": [[10]], "pixel_values": 0}, None, "prompts holds 'pixel_values', which is not read"),
        ([{"content": "w10"}], None, "message 0 of a chat has no role: it holds content"),
        (IDS, [[0.5, 1, 1], [1, 1]], "attention_mask must hold 1 where there is a token and 0"),
        (IDS, [[1, 1, 1]], "attention_mask must have a number for every token of prompts"),
        (TEXTS, [[1, 1, 1], [1, 1]], "attention_mask says where token ids are padded, but prompts are texts"),
        ([[10], [0, 0]], None, "prompt 1 is empty"),
        (["w10", ""], None, "prompt 1 is empty"),
    ],
)
def test_what_is_no_prompt_is_refused_by_name(prompts, mask, message, chatting):
    with pytest.raises(ValueError, match=message):
        prompt_token_ids(chatting, prompts, mask)


def test_messages_without_a_template_are_refused(tokenizer):
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        prompt_token_ids(tokenizer, CHATS)


def test_padding_that_also_ends_texts_is_refused_in_a_tensor_and_told_by_a_mask(build_tokenizer):
    tokenizer = build_tokenizer(pad=False)
    tokenizer.pad_token = tokenizer.eos_token
    padded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert prompt_token_ids(tokenizer, padded) == IDS
    for side in ("left", "right"):
        rows = tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt").input_ids
        with pytest.raises(ValueError, match=r"which both pads and delimits texts: pass attention_mask"):
            prompt_token_ids(tokenizer, rows)
    assert prompt_token_ids(tokenizer, torch.tensor([[1, 10], [1, 11]])) == [[1, 10], [1, 11]]  # a beginning that all have


@pytest.fixture
def beginning(build_tokenizer):
    tokenizer = build_tokenizer()
    tokenizer.bos_token = "w70"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="w70 $A", special_tokens=[("w70", 70)])
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %} {{ m['content'] }}{% endfor %}"
    return tokenizer


def test_a_templated_text_gets_no_second_beginning(beginning):
    text = beginning.apply_chat_template(CHATS[0], tokenize=False)
    assert prompt_token_ids(beginning, [text]) == prompt_token_ids(beginning, CHATS[:1]) == [[70, 10, 11, 12]]
    assert prompt_token_ids(beginning, ["w10", "w70 w70 w10"]) == [[70, 10], [70, 70, 10]]
