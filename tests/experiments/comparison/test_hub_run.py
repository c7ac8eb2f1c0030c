"""`run.py policy=gpt2_imdb reward=distilbert_imdb task=imdb_hub` against a hub on loopback, PPO included; then without it."""

import json

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import transformers
from hub_server import StandInHub
from huggingface_hub import constants
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer

from bon import Candidates
from suite.comparison.compare import compare
from suite.comparison.setup import prepare
from suite.metrics.rows import read_rows
from suite.reports.terminal import table, verdict
from suite.runtime.errors import UserError

LABELS = {"id2label": {0: "NEGATIVE", 1: "POSITIVE"}, "label2id": {"NEGATIVE": 0, "POSITIVE": 1}}
SMALL = ["experiment=smoke", "policy=gpt2_imdb", "reward=distilbert_imdb", "task=imdb_hub", "sampling.max_new_tokens=8"]


def build(kind, config, folder, seed):
    """A random model of this class, sharp enough to tell texts apart."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config.initializer_range = 0.3
        kind(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory, some_reviews):
    """Folders as the hub has them: models of the real classes, tokenizers in their old files, no padding token for GPT-2."""
    root = tmp_path_factory.mktemp("repositories")
    texts = [text for text, _ in some_reviews[::40]]
    folders = {name: root / name for name in ("gpt2", "tuned", "distilbert", "roberta", "imdb")}
    for folder in folders.values():
        folder.mkdir()

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=600, special_tokens=["<|endoftext|>"], show_progress=False)
    for seed, name in enumerate(("gpt2", "tuned")):
        bpe.save_model(str(folders[name]))
        end = bpe.token_to_id("<|endoftext|>")
        sizes = {"vocab_size": bpe.get_vocab_size(), "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
        config = transformers.GPT2Config(**sizes, bos_token_id=end, eos_token_id=end)
        build(transformers.GPT2LMHeadModel, config, folders[name], seed)

    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator(texts, vocab_size=500, show_progress=False)
    words.save_model(str(folders["distilbert"]))
    (folders["distilbert"] / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512}')
    config = transformers.DistilBertConfig(vocab_size=500, dim=32, n_layers=2, n_heads=2, hidden_dim=64, **LABELS)
    build(transformers.DistilBertForSequenceClassification, config, folders["distilbert"], 2)

    marked = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    marked.train_from_iterator(texts, vocab_size=450, special_tokens=special, show_progress=False)
    marked.save_model(str(folders["roberta"]))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.RobertaConfig(
        vocab_size=450, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        **sizes, **LABELS,
    )  # fmt: skip
    build(transformers.RobertaForSequenceClassification, config, folders["roberta"], 3)

    reviews = some_reviews[::8]
    columns = {"text": [text for text, _ in reviews], "label": [label for _, label in reviews]}
    (folders["imdb"] / "plain_text").mkdir()
    parquet.write_table(pa.table(columns), folders["imdb"] / "plain_text" / "train-00000-of-00001.parquet")
    return folders


@pytest.fixture(scope="module")
def runs(start, repositories, tmp_path_factory):
    """The first run, on the hub; a second one, with another n, when the hub is gone; the commits that were served."""
    folder = tmp_path_factory.mktemp("run")
    served = StandInHub()
    names = {"gpt2": "lvwerra/gpt2-imdb", "distilbert": "lvwerra/distilbert-imdb",
             "roberta": "siebert/sentiment-roberta-large-english"}  # fmt: skip
    commits = {name: served.add(repository, repositories[name]) for name, repository in names.items()}
    commits["imdb"] = served.add("stanfordnlp/imdb", repositories["imdb"], "datasets")
    arguments = [*SMALL, f"results={folder}/results", f"cache={folder}/cache"]
    home = {"HF_HOME": str(folder / "hub"), "HF_ENDPOINT": served.endpoint}

    def finished(*more, **environment):
        process = start(*arguments, *more, cwd=folder, **home, **environment)
        try:
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
        return process.returncode, out, err

    first = finished("name=first")
    served.close()
    again = finished("name=again", "n=3", HF_HUB_OFFLINE="1")
    missing = finished("policy.path=lvwerra/gpt2", HF_HUB_OFFLINE="1")
    return folder / "results", commits, first, again, missing


def test_the_whole_comparison(runs):
    results, commits, (code, out, err), _, _ = runs
    assert (code, err) == (0, "")
    assert "16 of imdb_hub" in out
    assert "Gold reward of best-of-4 minus PPO, paired over 16 prompts" in out
    manifest = json.loads((results / "first" / "manifest.json").read_text())
    assert manifest["data"]["revision"] == commits["imdb"]
    assert {name: facts["revision"] for name, facts in manifest["models"].items()} == {
        "policy": commits["gpt2"], "proxy": commits["distilbert"], "gold": commits["roberta"]
    }  # fmt: skip
    pool = Candidates.load(results / "first" / "candidates_ppo.parquet")
    assert pool.scores["kl_rao_blackwell"].mean() > 0
    assert pool.token_ids[..., 0].max() < 600  # never the padding that was added
    assert {row.method for row in read_rows(results / "first" / "metrics.csv")} >= {"base", "best_of_n", "ppo"}


def test_without_the_hub_everything_comes_from_the_caches(runs):
    results, _, _, (code, _, err), _ = runs
    assert (code, err) == (0, "")
    one, two = (Candidates.load(results / name / "candidates_ppo.parquet") for name in ("first", "again"))
    assert (one.token_ids == two.token_ids).all()


def test_what_was_never_fetched_ends_in_a_line(runs):
    code, out, err = runs[-1]
    assert (code, out) == (2, "")
    assert err == (
        "error: policy.path=lvwerra/gpt2: not in the cache, and HF_HUB_OFFLINE forbids to ask for it; "
        "without a hub, use policy=tiny\n"
    )


@pytest.fixture
def hub(monkeypatch, tmp_path):
    served = StandInHub()
    monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    huggingface_hub.close_session()
    yield served
    served.close()
    huggingface_hub.close_session()


def test_a_published_policy_is_evaluated_like_a_trained_one(hub, repositories, configure):
    hub.add("lvwerra/gpt2-imdb-pos-v2", repositories["tuned"])
    overrides = [f"policy.path={repositories['gpt2']}", "baseline=published", "num_prompts=6", "num_candidates=4", "n=2",
                 "sampling.max_new_tokens=6", "tracking=none"]  # fmt: skip
    ready = prepare(configure(*overrides))
    outcome = compare(ready)
    pool = outcome.pools["published"]
    assert pool.num_prompts == 6
    assert pool.scores["kl_rao_blackwell"].mean() > 0.1
    assert not any(row.metric.startswith("training_") for row in outcome.rows)
    assert outcome.costs == {}
    assert "not known" in table(outcome, 2)
    assert "pays off" not in verdict(outcome)
    assert "best-of-2 minus published policy" in verdict(outcome)


def test_a_published_policy_of_another_vocabulary(hub, repositories, configure):
    hub.add("lvwerra/gpt2-imdb-pos-v2", repositories["tuned"])
    with pytest.raises(UserError, match=r"^baseline\.path=lvwerra/gpt2-imdb-pos-v2: its tokens are not those of the policy"):
        prepare(configure("baseline=published", "num_prompts=6"))


def test_a_label_that_the_classifier_lacks(repositories, configure, monkeypatch):
    monkeypatch.setattr("suite.comparison.setup.load_policy", None)
    with pytest.raises(UserError, match=r"^reward\.proxy\.label=GOOD: .*its labels are 'NEGATIVE', 'POSITIVE'$"):
        prepare(configure(f"reward.proxy.path={repositories['distilbert']}", "reward.proxy.label=GOOD"))
