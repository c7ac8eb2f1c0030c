"""What the trainers log: every key of every trainer is described, and so are the keys of training on the dashboard."""

import pytest

from suite.baselines.interface import train
from suite.config.baselines import BASELINES, TRAINERS
from suite.tracking.jobs import update_entries
from suite.tracking.keys import UPDATES, look_up
from suite.tracking.protocol import Histogram

#: A published policy is not trained here, and logs nothing.
TRAINED = [method for method in TRAINERS if method != "published"]


@pytest.fixture(scope="module")
def logged(training_task, tmp_path_factory):
    """{method: {key: value} of its last update}, from real trainings of two updates."""
    found = {}
    for method in TRAINED:
        own = {"num_prompts": 8, "best_of": 2} if method == "bon_sft" else {}
        own |= {"num_mini_batches": 2} if method == "ppo" else {}
        log = train(training_task(BASELINES[method], tmp_path_factory.mktemp(method) / "training", **own)).log
        found[method] = dict(update_entries({"baseline": {"name": method}}, log)[-1].values)
    return found


@pytest.mark.parametrize("method", TRAINED)
def test_every_key_is_described(logged, method):
    """A new key of a trainer needs a line in `suite.tracking.keys.UPDATES`: what it means, and its unit."""
    assert {key for key in logged[method] if look_up(key) is None} == set()
    assert all(isinstance(value, int | float | Histogram) for value in logged[method].values())


def test_no_description_is_left_over(logged):
    used = {key.split("/", 1)[1] for keys in logged.values() for key in keys if not key.startswith("cost/")}
    assert set(UPDATES) - used == set()


def test_the_dashboards_training_keys_are_logged(logged):
    pytest.importorskip("wandb_workspaces", reason='pip install -e ".[tracking]"')
    from suite.tracking.wandb_dashboard import as_json, keys

    named = {key for key in keys(as_json("me", "p")) if key.split("/")[0] in TRAINERS}
    assert named - {key for values in logged.values() for key in values} == set()
    assert len(named) > 10
