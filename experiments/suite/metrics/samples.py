"""Sample responses side by side: of the base policy, best-of-n and the tuned policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bon import Candidates

SAMPLE_COLUMNS = (
    "query",
    "base response",
    "base score",
    "best-of-n response",
    "best-of-n score",
    "tuned response",
    "tuned score",
)


def sample_table(pools: Mapping[str, Candidates], n: int, count: int) -> list[list[Any]]:
    """The first prompts as TRL's notebook showed them: query; response and proxy score of base, best-of-n and tuned policy.

    `pools` are those of the methods: "base", and the tuned policy's if there is one.
    """
    base = pools["base"]
    tuned = next((pool for method, pool in pools.items() if method != "base"), None)
    table = []
    for p in range(min(count, base.num_prompts)):
        best = int(base.scores["proxy"][p, :n].argmax())
        row = [base.prompts[p], *_shown(base, p, 0), *_shown(base, p, best)]
        table.append(row + (_shown(tuned, p, 0) if tuned is not None else ["", None]))
    return table


def _shown(pool: Candidates, prompt: int, candidate: int) -> list[Any]:
    return [pool.texts[prompt, candidate], round(float(pool.scores["proxy"][prompt, candidate]), 2)]
