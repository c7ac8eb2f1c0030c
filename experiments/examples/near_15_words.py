"""A reward in ten lines: how near a text is to 15 words. `reward._target_=experiments.examples.near_15_words.score`."""

WORDS = 15


def score(texts: list[str]) -> list[float]:
    """Minus the distance to 15 words, for every text (prompt and response as one)."""
    return [-float(abs(len(text.split()) - WORDS)) for text in texts]
