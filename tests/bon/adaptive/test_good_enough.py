"""Drawing until a response is good enough: the same as reading it off the pool that is drawn whole."""

import numpy as np
import pytest
from pool_checks import last_number

from bon import generate_candidates, score_candidates
from bon.adaptive.good_enough import counts_until, draw_until, fail_count, replay_until

PROMPTS = [[10, 11, 12], [13, 14], [15]]


def test_counts_by_hand():
    scores = [[0, 5, 0, 9, 0], [0, 0, 0, 0, 0], [7, 0, 0, 0, 0]]
    assert counts_until(scores, 5).tolist() == [2, 5, 1]
    assert counts_until(scores, 9).tolist() == [4, 5, 5]
    assert counts_until(scores, 5, every=2).tolist() == [2, 5, 2]
    assert counts_until(scores, 5, every=3).tolist() == [3, 5, 3]
    for wrong in ([], [1.0]):
        with pytest.raises(ValueError, match="scores must be"):
            counts_until(wrong, 1.0)
    with pytest.raises(ValueError, match="at_least must be finite"):
        counts_until(scores, float("nan"))
    with pytest.raises(ValueError, match="every must be at least 1"):
        counts_until(scores, 1.0, every=0)


@pytest.mark.parametrize("every", [1, 4])
def test_drawing_is_the_replay_of_the_whole_pool(gpt2, tokenizer, every):
    options = {"seed": 3, "max_new_tokens": 4}
    full = score_candidates(generate_candidates(gpt2, tokenizer, PROMPTS, 12, **options), proxy=last_number)
    level = float(np.quantile(full.scores["proxy"], 0.9))
    drawn = draw_until(gpt2, tokenizer, PROMPTS, 12, last_number, at_least=level, every=every, **options)
    read = replay_until(full, at_least=level, every=every)
    np.testing.assert_array_equal(drawn.drawn, read.drawn)
    np.testing.assert_array_equal(drawn.tokens, read.tokens)
    np.testing.assert_array_equal(drawn.best.scores["proxy"], read.best.scores["proxy"])
    assert drawn.best.texts.tolist() == read.best.texts.tolist()
    assert fail_count(drawn, level) == (full.scores["proxy"].max(axis=1) < level).sum()
    assert 0 < drawn.savings(full).tokens_saved < 1
