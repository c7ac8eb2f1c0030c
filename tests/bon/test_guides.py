"""The guides of the library: their Python runs, in their order, and the table of rules names every rule."""

import re
from pathlib import Path

import pytest
import torch
from pool_checks import last_number

import bon.selection

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
PAGES = {
    name: (GUIDES / f"{name}.md").read_text(encoding="utf-8")
    for name in ("sampler", "pools", "selection", "spending-less", "rewards", "answers", "pools_from_elsewhere")
}


@pytest.fixture
def names(gpt2, tokenizer):
    return {
        "model": gpt2,
        "tokenizer": tokenizer,
        "queries_to_scores": last_number,
        "query_tensors": [torch.tensor([10, 11]), torch.tensor([12])],
        "prompts": ["w10 w11", "w12"],
        "device": "cpu",
    }


def test_the_blocks_run_in_order(names):
    blocks = {name: re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) for name, page in PAGES.items()}
    assert [len(found) for found in blocks.values()] == [1, 2, 1, 1, 5, 2, 2]
    for found in blocks.values():
        for block in found:
            exec(block, names)
    assert names["some"].metadata["excluded"] == {"proxy": 1}
    assert {"brevity", "letters", "letters.short", "remote"} <= set(names["pool"].scores)
    assert names["answers"].tolist() == [["4", "5", "4", None], ["9", "6", "9", "6"]]
    assert [len(row) for row in names["texts"]] == [1, 1]
    assert names["pool"].num_candidates == 16
    assert names["curve"].shape == (2, 16)
    assert names["rejection"].best.texts.shape == names["stopped"].best.texts.shape == (2, 1)


def test_every_rule_is_in_the_table():
    rules = [
        name
        for name in bon.selection.__all__
        if isinstance(getattr(bon.selection, name), type) and name != bon.selection.SelectionRule.__name__
    ]
    assert len(rules) == 14
    for name in rules:
        assert f"`{name}" in PAGES["selection"], name
