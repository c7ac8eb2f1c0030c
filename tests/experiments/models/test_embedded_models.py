"""The weights that the repository ships: whole, and as good as their card says."""

import re

import pytest
import torch

from suite.config.run import JudgeConfig, PolicyConfig
from suite.data import imdb
from suite.models.policies import load_policy
from suite.models.rewards import load_judge
from suite.pretrain.held_out import measure
from suite.runtime.hashing import CHECKSUMS
from suite.runtime.paths import REPOSITORY

FOLDER = REPOSITORY / "experiments/models/tiny"


@pytest.fixture(scope="module")
def measured():
    held_out = imdb.split_reviews(imdb.read_wheel())["held_out"]
    return measure(FOLDER, held_out[:200], crops=600)


def test_checksums_name_all_three_models():
    lines = (FOLDER / CHECKSUMS).read_text().splitlines()
    assert [line.split()[1] for line in lines] == [f"{part}/model.safetensors" for part in ("gold", "policy", "proxy")]


def test_weights_load_with_their_checksums_and_stay_below_40_megabytes():
    device = torch.device("cpu")
    policy = load_policy(PolicyConfig("tiny", "experiments/models/tiny/policy"), device)
    judge = load_judge(JudgeConfig("experiments/models/tiny/gold", "POSITIVE"), "reward.gold", device)
    assert 3.5e6 < policy.parameters < 4.5e6
    assert judge.digest != policy.digest
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 40e6


def test_policy_is_a_language_model_of_reviews(measured):
    assert measured["policy perplexity"] <= 65


def test_card_says_what_is_measured(measured):
    # 600 crops of 200 reviews against 4,000 of all 1,146: one standard error is about 0.03.
    card = (FOLDER / "README.md").read_text()
    for name, value in measured.items():
        written = float(re.search(rf"\| {re.escape(name)} \| ([\d.]+) \|", card)[1])
        assert value == pytest.approx(written, rel=0.12), name


def test_judges_are_good_enough_and_gold_is_the_better_one():
    # On 4,000 crops, as the card has them (a standard error is 0.006); the test above holds the card to the weights.
    card = (FOLDER / "README.md").read_text()
    right = {
        (judge, length): float(re.search(rf"\| {judge} accuracy, {length} tokens \| ([\d.]+) \|", card)[1])
        for judge in ("proxy", "gold")
        for length in (24, 128)
    }
    assert right["proxy", 24] >= 0.72
    assert right["proxy", 128] >= 0.82
    assert right["gold", 24] >= 0.72
    assert right["gold", 128] >= 0.85
    assert right["gold", 128] >= right["proxy", 128] + 0.015
