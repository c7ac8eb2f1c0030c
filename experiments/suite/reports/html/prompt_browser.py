"""The prompts of a run with the responses of every method, as the page's script reads them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bon import Candidates
from suite.metrics.naming import title

#: How many decimals of a score are kept.
_DECIMALS = 3


def browser_data(pools: dict[str, Candidates], n: int) -> dict[str, Any]:
    """Methods, and for each prompt its text and a response a method as [text, proxy, gold].

    Of a policy that answers once the first candidate is shown; of best-of-n the one with the highest proxy reward among
    the first n.
    """
    base = pools["base"]
    first = np.zeros(base.num_prompts, dtype=np.int_)
    shown: list[tuple[str, Candidates, NDArray[np.int_]]] = [("base", base, first)]
    if n > 1:
        shown.append(("best_of_n", base, base.scores["proxy"][:, :n].argmax(1)))
    shown += [(method, pool, first) for method, pool in pools.items() if method != "base"]
    return {
        "methods": [title(method, n) for method, _, _ in shown],
        "prompts": [
            {"prompt": prompt, "responses": [_response(pool, p, int(chosen[p])) for _, pool, chosen in shown]}
            for p, prompt in enumerate(base.prompts)
        ],
    }


def as_script(data: dict[str, Any]) -> str:
    """JSON that no HTML parser takes for markup: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _response(pool: Candidates, prompt: int, candidate: int) -> list[Any]:
    scores = [round(float(pool.scores[name][prompt, candidate]), _DECIMALS) for name in ("proxy", "gold")]
    return [str(pool.texts[prompt, candidate]), *scores]
