"""Run folders for the tests of the report: the committed one, and one whose every text tries to be markup."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from bon import Candidates

HEADLINE = Path(__file__).resolve().parents[2] / "results" / "headline"
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<!--<script>",
    "</title></style></pre><svg onload=window.hacked=1>",
    "{{ 7 * 7 }}{% raw %} \"quoted\" 'twice' &lt;b&gt; \u2028 \\u003c",
)


def copied(folder: Path) -> Path:
    """A copy of the committed run without its report."""
    shutil.copytree(HEADLINE, folder, ignore=shutil.ignore_patterns("report.html"))
    return folder


def hostile(folder: Path) -> Path:
    """A run of 8 prompts whose prompts, responses, findings, configuration and name are hostile."""
    copied(folder)
    for name in ("candidates.parquet", "candidates_ppo.parquet"):
        pool = Candidates.load(folder / name).rows(np.arange(8))
        texts = pool.texts.copy()
        for i in range(texts.shape[0]):
            texts[i, :] = HOSTILE[i % len(HOSTILE)]
        prompts = [HOSTILE[(i + 1) % len(HOSTILE)] for i in range(8)]
        dataclasses.replace(pool, prompts=prompts, texts=texts).save(folder / name)
    with (folder / "summary.txt").open("a") as file:
        file.writelines(f"WARNING: {text}\n" for text in HOSTILE[:4])
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("name: imdb", f"name: {HOSTILE[1]!r}".replace("\\'", "''")))
    return folder
