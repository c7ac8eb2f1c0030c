"""The library's own page: its Python runs, and its table names every rule."""

import re
from pathlib import Path

import torch
from pool_checks import last_number

import bon
import bon.selection

PAGE = (Path(bon.__file__).parent / "README.md").read_text(encoding="utf-8")


def test_the_blocks_run_in_order(gpt2, tokenizer):
    names = {
        "model": gpt2,
        "tokenizer": tokenizer,
        "queries_to_scores": last_number,
        "query_tensors": [torch.tensor([10, 11]), torch.tensor([12])],
        "prompts": ["w10 w11", "w12"],
        "device": "cpu",
    }
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, names)
    assert [len(row) for row in names["texts"]] == [1, 1]
    assert names["pool"].num_candidates == 16
    assert names["rejection"].best.texts.shape == names["stopped"].best.texts.shape == (2, 1)


def test_every_rule_is_in_the_table():
    rules = [
        name
        for name in bon.selection.__all__
        if isinstance(getattr(bon.selection, name), type) and name != bon.selection.SelectionRule.__name__
    ]
    assert len(rules) == 9
    for name in rules:
        assert f"`{name}" in PAGE, name
