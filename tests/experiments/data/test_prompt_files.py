"""A file of prompts: read or refused by line, split by the text alone, encoded whole."""

import csv
import json
import math

import pytest

from suite.data.prompt_files import TRAINING_SHARE, read_prompts
from suite.runtime.errors import UserError

TEXTS = [f"Question number {i}, what do you say?" for i in range(400)]


@pytest.fixture
def written(tmp_path):
    """written(name, content) -> the path of a file."""

    def write(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return write


def jsonl(texts, column="prompt"):
    return "".join(json.dumps({column: text, "id": i}) + "\n" for i, text in enumerate(texts))


def texts_of(file):
    return {split: [prompt.text for prompt in prompts] for split, prompts in file.splits.items()}


def test_jsonl_and_csv_hold_the_same(written, tmp_path):
    texts = [*TEXTS[:50], 'with "quotes", a comma\nand a second line', "  spaces stay  "]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "prompt"], *([i, text] for i, text in enumerate(texts))])
    one, two = read_prompts(written("a.jsonl", jsonl(texts)), "prompt"), read_prompts(str(tmp_path / "a.csv"), "prompt")
    assert texts_of(one) == texts_of(two)
    assert sorted(text for part in texts_of(one).values() for text in part) == sorted(texts)
    assert one.digest != two.digest


def test_the_split_is_disjoint_and_by_the_text_alone(written):
    whole = texts_of(read_prompts(written("a.jsonl", jsonl(TEXTS)), "prompt"))
    assert not set(whole["ppo"]) & set(whole["evaluation"])
    share = len(whole["ppo"]) / len(TEXTS)
    assert abs(share - TRAINING_SHARE) < 5 * math.sqrt(0.25 / len(TEXTS))
    part = texts_of(read_prompts(written("b.jsonl", jsonl(TEXTS[::-3])), "prompt"))
    for split, texts in part.items():
        assert set(texts) <= set(whole[split])
        assert texts == [text for text in whole[split] if text in set(texts)]


def test_duplicates_count_once_and_their_like_stay_on_one_side(written):
    file = read_prompts(written("a.jsonl", jsonl([*TEXTS, *TEXTS[:9], *(text.upper() for text in TEXTS)])), "prompt")
    sides = {text: split for split, texts in texts_of(file).items() for text in texts}
    assert len(sides) == sum(map(len, file.splits.values())) == 2 * len(TEXTS)
    assert all(sides[text] == sides[text.upper()] for text in TEXTS)


def test_another_column_and_a_byte_order_mark(written):
    file = read_prompts(written("a.csv", b"\xef\xbb\xbfquery\nwhat?\n"), "query")
    assert sorted(texts_of(file).values()) == [[], ["what?"]]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", "what?\n", r"^task\.prompts=\S*a\.txt is not allowed: must end in \.jsonl .* or \.csv"),
        ("a.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"}\n', r"a\.jsonl:2: the line is empty$"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": " "}\n', r"a\.jsonl:2: the prompt is empty$"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": "b"\n', r"a\.jsonl:2: not JSON \("),
        ("a.jsonl", '{"text": "a", "id": 1}\n', r"a\.jsonl:1: no column 'prompt'; there are 'text', 'id' \(task\.column "),
        ("a.jsonl", '{"prompt": 3}\n', r"a\.jsonl:1: 'prompt' is a int, not text$"),
        ("a.jsonl", '"just text"\n', r"a\.jsonl:1: a str, not an object with a field 'prompt'$"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}\n', r"a\.jsonl:2: not UTF-8$"),
        ("a.csv", "text,id\na,1\n", r"a\.csv:1: no column 'prompt'; there are 'text', 'id'"),
        ("a.csv", "", r"a\.csv:1: no column 'prompt'; there are none"),
        ("a.csv", 'prompt,id\n"two\nlines",1\n\nb,2\n', r"a\.csv:4: the line is empty$"),
        ("a.csv", "prompt,id\na,1\n,2\n", r"a\.csv:3: the prompt is empty$"),
        ("a.csv", "prompt,id\na,1\nb\n", r"a\.csv:3: 1 fields, the header has 2$"),
        ("a.csv", 'prompt,id\na,1\n"b"x,2\n', r"a\.csv:3: not CSV \("),
    ],
)
def test_lines_that_are_no_prompt(written, name, content, told):
    with pytest.raises(UserError, match=told) as caught:
        read_prompts(written(name, content), "prompt")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there():
    with pytest.raises(UserError, match=r"^task\.prompts=nowhere\.csv: \S+nowhere\.csv cannot be read \(No such file"):
        read_prompts("nowhere.csv", "prompt")


def test_prompts_are_encoded_whole_as_far_as_they_fit(written):
    file = read_prompts(written("a.jsonl", jsonl(["abcd", "abcdefgh"])), "prompt")
    encode = lambda text: [ord(character) for character in text]  # noqa: E731
    rows = file.encoded(encode, 10, 2)
    assert sorted(len(row) for part in rows.values() for row in part) == [4, 8]
    assert file.encoded(encode, None, 10**6) == rows
    with pytest.raises(UserError, match=r"a\.jsonl:2: the prompt has 8 tokens.*sampling\.max_new_tokens=3.*context of 10$"):
        file.encoded(encode, 10, 3)
    with pytest.raises(UserError, match=r"a\.jsonl:[12]: the prompt has no tokens"):
        file.encoded(lambda text: [], 10, 3)
