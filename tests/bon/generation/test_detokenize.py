"""Texts are those of transformers' own `batch_decode`, whichever way they are made."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from bon.generation.detokenize import decoded, texts_of


class Shouting(PreTrainedTokenizerFast):
    """With a decoder of its own, as some models' tokenizers have."""

    def _decode(self, *arguments, **options):
        return super()._decode(*arguments, **options).upper()


class Whispering(PreTrainedTokenizerFast):
    def decode(self, *arguments, **options):
        decoded = super().decode(*arguments, **options)
        return decoded.lower() if isinstance(decoded, str) else [text.lower() for text in decoded]


@pytest.fixture(scope="session", params=["plain", "with a decoder of its own", "with another", "that cleans up"])
def any_tokenizer(request, byte_tokenizer):
    classes = {"with a decoder of its own": Shouting, "with another": Whispering}
    kind = classes.get(request.param, PreTrainedTokenizerFast)
    made = kind(
        tokenizer_object=copy.deepcopy(byte_tokenizer.backend_tokenizer),
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=request.param == "that cleans up",
    )
    made.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    return made


@given(rows=st.lists(st.lists(st.integers(0, 257), max_size=12), min_size=1, max_size=4))
def test_texts_are_those_of_batch_decode(any_tokenizer, rows):
    assert texts_of(any_tokenizer, rows) == any_tokenizer.batch_decode(rows, skip_special_tokens=True)


def test_each_tokenizer_of_these_tests_says_it_its_own_way(any_tokenizer):
    said = texts_of(any_tokenizer, [any_tokenizer("So it is .")["input_ids"]])
    assert (
        said
        == {
            Shouting: ["SO IT IS ."],
            Whispering: ["so it is ."],
            PreTrainedTokenizerFast: ["So it is." if any_tokenizer.clean_up_tokenization_spaces else "So it is ."],
        }[type(any_tokenizer)]
    )


def test_a_prompt_that_ends_within_a_character_leaves_it_to_the_responses(byte_tokenizer):
    ids = byte_tokenizer("\u6f22\u5b57!")["input_ids"]
    for cut in range(1, len(ids)):
        rows = np.array([[ids[cut:]]], dtype=np.int32)
        prompts, responses = decoded(byte_tokenizer, [ids[:cut]], rows, np.array([[len(ids) - cut]]))
        assert prompts[0] + responses[0, 0] == byte_tokenizer.decode(ids)
