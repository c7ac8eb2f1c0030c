"""What becomes of the scores of responses that did not end by themselves."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bon.candidates import Candidates

Unfinished = Literal["keep", "penalize", "exclude"]


def check_unfinished(unfinished: str, penalty: float | None) -> None:
    """Refuse another policy, or a penalty that is missing, without use, or not positive.

    Raises:
        ValueError: as said.
    """
    if unfinished not in ("keep", "penalize", "exclude"):
        raise ValueError(f"unfinished must be keep, penalize or exclude, got {unfinished!r}")
    if (unfinished == "penalize") != (penalty is not None):
        raise ValueError('unfinished="penalize" and penalty=... belong together: give both, or neither')
    if penalty is not None and not (np.isfinite(penalty) and penalty > 0):
        raise ValueError(f"penalty must be finite and > 0, it is taken from the score; got {penalty}")


def without_unfinished(
    candidates: Candidates, name: str, unfinished: Unfinished = "exclude", penalty: float | None = None
) -> Candidates:
    """Return the pool with the score `name` of responses that were cut kept, lowered, or taken away (NaN).

    A response that was cut where no more tokens were allowed is often half a thought, and a reward that has never seen one may
    like it. TRL's PPO has the same choice in `missing_eos_penalty`.

    Args:
        candidates: a scored pool that knows `finished`.
        name: the score.
        unfinished: "keep" changes nothing, "penalize" takes `penalty` from the score, "exclude" leaves them out of every
            selection by it.
        penalty: in units of the score, > 0.

    Returns:
        The pool; `metadata["unfinished"][name]` says what was done, and to how many.

    Raises:
        ValueError: a pool that does not know which responses are finished, or a prompt with none when they are to be excluded.
    """
    check_unfinished(unfinished, penalty)
    if unfinished == "keep":
        return candidates
    if candidates.finished is None:
        raise ValueError("this pool does not know which responses are finished: give Candidates.from_texts(finished=...)")
    cut = ~candidates.finished
    if unfinished == "exclude" and cut.all(axis=1).any():
        prompt = int(cut.all(axis=1).argmax())
        raise ValueError(
            f"no response to prompt {prompt} ({candidates.prompts[prompt][:40]!r}) ended by itself: draw more, or "
            'longer ones, or use unfinished="penalize"'
        )
    scores = candidates.scores[name]
    changed = np.where(cut, np.nan if penalty is None else scores - penalty, scores)
    done = {"policy": unfinished, "responses": int(cut.sum())} | ({} if penalty is None else {"penalty": float(penalty)})
    told = {**candidates.metadata.get("unfinished", {}), name: done}
    return candidates.with_scores(**{name: changed}).with_metadata(unfinished=told)
