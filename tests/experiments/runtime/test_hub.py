"""Models and data from a hub on loopback, through the real client library: fetched once, then offline; refused in a line."""

import re
import shutil
import socket

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from hub_server import StandInHub
from huggingface_hub import constants

from suite.config.run import JudgeConfig, PolicyConfig
from suite.data import imdb, tasks
from suite.models.files import here
from suite.models.policies import load_policy
from suite.models.rewards import load_judge
from suite.runtime.errors import UserError
from suite.runtime.hub import fetched

NAME = "someone/policy"
CPU = torch.device("cpu")


@pytest.fixture
def hub(models, tmp_path, monkeypatch):
    """A stand-in that holds the tiny policy; the client asks it, with a cache of this test, for two seconds at most."""
    served = StandInHub()
    monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.endpoint + "".join(template[1:]))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's pauses between its attempts
    huggingface_hub.close_session()
    served.commit = served.add(NAME, models / "policy")
    yield served
    served.close()
    huggingface_hub.close_session()


def fetch(path=NAME, revision=None, data=False):
    return fetched(path, revision, "task.path" if data else "policy.path", "policy=tiny", data)


def refused(**arguments):
    """The line that ends a run which asks for this."""
    with pytest.raises(UserError) as caught:
        fetch(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"policy.path={arguments.get('path', NAME)}: ")
    return message


def test_a_model_is_fetched_at_its_commit_and_only_once(hub, models):
    folder = fetch()
    assert folder.name == hub.commit
    assert (folder / "model.safetensors").read_bytes() == (models / "policy" / "model.safetensors").read_bytes()
    assert any(request.startswith("GET /cdn/") for request in hub.requests)
    hub.requests.clear()
    assert fetch() == folder
    assert not any("/resolve/" in request or "/cdn/" in request for request in hub.requests)


def test_without_a_hub_the_cache_serves(hub, monkeypatch):
    folder = fetch()
    hub.close()
    huggingface_hub.close_session()
    assert fetch() == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert fetch() == folder
    assert "HF_HUB_OFFLINE" in refused(path="someone/other")


def test_loading_asks_the_hub_for_nothing_that_was_not_fetched(hub, models, policy):
    local = here(PolicyConfig(name="hub", path=NAME), "policy", "policy=tiny")
    hub.requests.clear()
    loaded = load_policy(local, CPU)
    assert hub.requests == []
    assert loaded.digest == policy.digest


def test_revisions(hub, models):
    other = hub.add(NAME, models / "proxy", revision="refs/pr/1")
    assert other != hub.commit
    assert fetch(revision="refs/pr/1").name == other
    assert fetch(revision=hub.commit).name == hub.commit
    assert fetch(revision="main").name == hub.commit
    assert refused(revision="nowhere").endswith("it has no revision nowhere; without a hub, use policy=tiny")


def test_what_is_not_there(hub):
    assert "has no such repository" in refused(path="someone/nobody")
    assert "neither a folder nor a name of the hub" in refused(path="a/b/c")


def test_a_gated_repository(hub):
    hub.ways[NAME] = "gated"
    assert f"it is gated: ask for access at {hub.endpoint}/{NAME}, then set HF_TOKEN" in refused()


def test_a_hub_that_fails(hub):
    hub.ways[NAME] = "500"
    assert f"{hub.endpoint} answered 500" in refused()


def test_a_hub_that_never_answers_is_not_waited_for(hub):
    hub.ways[NAME] = "silent"
    assert f"{hub.endpoint} did not answer within 2 s" in refused()


def test_no_hub_at_all(hub, monkeypatch):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert "cannot be reached" in refused()


def test_a_download_that_breaks_off_goes_on(hub, models):
    hub.ways["model.safetensors"] = "cut"
    weights = fetch() / "model.safetensors"
    assert weights.read_bytes() == (models / "policy" / "model.safetensors").read_bytes()
    assert sum(request.startswith("GET /cdn/") for request in hub.requests) == 2


def test_a_truncated_file(hub):
    hub.ways["model.safetensors"] = "short"
    assert re.search(r"download failed .*should be of size \d+ but has size \d+", refused())
    hub.ways.clear()
    assert (fetch() / "model.safetensors").is_file()


def test_a_damaged_file_is_known_by_its_hash(hub):
    hub.ways["model.safetensors"] = "damaged"
    config = PolicyConfig(name="hub", path=NAME)
    with pytest.raises(
        UserError, match=r"model\.safetensors is damaged \(SHA-256 .*; remove .*blobs.* and run again"
    ) as caught:
        load_policy(config, CPU)
    blob = re.search(r"remove (\S+)", str(caught.value))[1]
    hub.ways.clear()
    shutil.os.remove(blob)
    assert load_policy(config, CPU).parameters > 0


def test_pickles_are_refused(hub, models, tmp_path):
    shutil.copytree(models / "policy", tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    hub.add("someone/pickled", tmp_path / "pickled")
    told = refused(path="someone/pickled")
    assert "has no model.safetensors, and pickled weights are not loaded" in told
    assert "policy.revision=refs/pr/1" in told
    assert not any("pytorch_model.bin" in request for request in hub.requests)


def test_code_in_a_repository_is_not_fetched(hub, models, tmp_path):
    shutil.copytree(models / "policy", tmp_path / "coded")
    (tmp_path / "coded" / "modeling.py").write_text("raise SystemExit('run')\n")
    (tmp_path / "coded" / "more").mkdir()
    (tmp_path / "coded" / "more" / "config.json").write_text("{}")
    hub.add("someone/coded", tmp_path / "coded")
    folder = fetch("someone/coded")
    assert {path.name for path in folder.iterdir()} == {path.name for path in (models / "policy").iterdir()}


def test_a_judge_from_the_hub_is_that_of_the_folder(hub, models, judges):
    hub.add("someone/judge", models / "proxy")
    judge = load_judge(JudgeConfig(path="someone/judge", label="POSITIVE"), "reward.proxy", CPU)
    assert judge.digest == judges["proxy"].digest
    assert judge.reward(["A film I liked."]) == judges["proxy"].reward(["A film I liked."])


@pytest.fixture
def reviews(hub, some_reviews, tmp_path):
    """`put(**columns)` serves a data set with a training file of these columns; by default some reviews."""

    def put(**columns):
        few = some_reviews[::10]
        columns = columns or {"text": [text for text, _ in few], "label": [label for _, label in few]}
        (tmp_path / "data" / "plain_text").mkdir(parents=True, exist_ok=True)
        for split in ("train", "test"):
            parquet.write_table(pa.table(columns), tmp_path / "data" / "plain_text" / f"{split}-00000-of-00001.parquet")
        return hub.add("someone/reviews", tmp_path / "data", "datasets")

    return put


def test_reviews_of_the_hub_land_in_the_same_splits(hub, reviews, some_reviews, configure):
    commit = reviews()
    config = configure("task=imdb_hub", "task.path=someone/reviews", "num_prompts=8", "baseline=none")
    task = tasks.read_task(config)
    splits = imdb.split_reviews(some_reviews[::10])
    assert task.encoded(lambda text: list(text.encode()), None) == tasks.apart(
        {split: imdb.make_prompts(splits[split], lambda text: list(text.encode())) for split in imdb.PROMPT_SPLITS}
    )
    assert task.facts == {"source": "hub", "path": "someone/reviews", "revision": commit}
    assert not any("test-0" in request for request in hub.requests if "resolve" in request)
    hub.close()
    huggingface_hub.close_session()
    assert tasks.read_task(config).available == task.available


def test_data_of_another_kind(hub, reviews, tmp_path):
    reviews(sentence=["a"], label=[1])
    with pytest.raises(UserError, match=r"^task\.path: .*parquet has no column text$"):
        imdb.read_hub(fetch("someone/reviews", data=True))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("nothing")
    hub.add("someone/empty", tmp_path / "empty", "datasets")
    with pytest.raises(UserError, match=r"someone/empty at \w{12} has no Parquet files of a training split"):
        fetch("someone/empty", data=True)


def test_damaged_data(hub, reviews):
    reviews()
    hub.ways["plain_text/train-00000-of-00001.parquet"] = "damaged"
    with pytest.raises(UserError, match=r"^task\.path: train-00000-of-00001\.parquet is damaged"):
        imdb.read_hub(fetch("someone/reviews", data=True))
