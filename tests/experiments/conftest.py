"""Tiny random models saved as the shipped ones are, real reviews from the wheel, configurations composed in this process."""

import dataclasses
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.optim import optimizer as torch_optimizer
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from bon import Candidates
from suite.baselines.interface import TrainingTask
from suite.config.models import Architecture
from suite.config.registry import register
from suite.config.run import JudgeConfig, PolicyConfig, SamplingConfig
from suite.data import imdb, tasks
from suite.data.text_keys import clean
from suite.models.policies import load_policy
from suite.models.rewards import load_judge
from suite.pretrain import embedded_models

REPOSITORY = Path(__file__).resolve().parents[2]
#: Trackio reads its place when it is imported, and a library that knows it may import it before any test.
_TRACKIO = tempfile.TemporaryDirectory(prefix="trackio-")
os.environ["TRACKIO_DIR"] = _TRACKIO.name
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def gradients_as_they_were():
    """What a test leaves of inference mode ends with it: one leak is one failure, not fifty."""
    with torch.inference_mode(False):
        yield


@pytest.fixture(scope="session")
def raw_reviews():
    """All 25,000 (raw text, label) of the wheel."""
    return imdb.read_wheel()


@pytest.fixture(scope="session")
def some_reviews(raw_reviews):
    """4,167 of them, of both labels: enough for every split to hold the prompts of a small run."""
    return raw_reviews[::6]


@pytest.fixture(scope="session")
def splits(raw_reviews):
    return imdb.split_reviews(raw_reviews)


@pytest.fixture(scope="session")
def models(tmp_path_factory, some_reviews):
    """A folder with `policy`, `proxy` and `gold`: random, 500 tokens, 2 layers of 32, sharp enough to tell texts apart."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = embedded_models.train_tokenizer([clean(text) for text, _ in some_reviews[::12]], 500)
    shape = Architecture(layers=2, width=32, heads=2, context=256)
    with torch.random.fork_rng():
        for seed, name in enumerate(("policy", "proxy", "gold")):
            torch.manual_seed(seed)
            config = embedded_models.gpt2_config(tokenizer, shape)
            config.initializer_range = 0.15
            if name == "policy":
                model = GPT2LMHeadModel(config)
            else:
                config.num_labels, config.id2label, config.label2id = 1, {0: "POSITIVE"}, {"POSITIVE": 0}
                model = GPT2ForSequenceClassification(config)
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def policy(models):
    return load_policy(PolicyConfig(name="tiny", path=str(models / "policy")), CPU)


@pytest.fixture(scope="session")
def judges(models):
    return {
        name: load_judge(JudgeConfig(path=str(models / name), label="POSITIVE"), f"reward.{name}", CPU)
        for name in ("proxy", "gold")
    }


@pytest.fixture(scope="session")
def prompts(policy, splits):
    """48 evaluation prompts of 2 to 8 tokens."""
    encode = lambda text: policy.tokenizer(text)["input_ids"]  # noqa: E731
    return imdb.make_prompts(splits["evaluation"][:80], encode)[:48]


@pytest.fixture(scope="session")
def training_prompts(policy, splits):
    """24 training prompts of 2 to 8 tokens."""
    encode = lambda text: policy.tokenizer(text)["input_ids"]  # noqa: E731
    return imdb.make_prompts(splits["ppo"][:40], encode)[:24]


@pytest.fixture(scope="session")
def training_task(policy, judges, training_prompts):
    """training_task(PPOConfig, folder, seed=0, proxy=..., prompts=..., **settings of the baseline) -> a small task."""

    def made(kind, folder, seed=0, proxy=judges["proxy"], prompts=training_prompts, temperature=1.0, **settings):
        return TrainingTask(
            config=kind(**{"updates": 2, "batch_size": 8, **settings}),
            sampling=SamplingConfig(max_new_tokens=6, temperature=temperature),
            policy=policy,
            proxy=proxy,
            prompts=prompts,
            seed=seed,
            folder=folder,
        )

    return made


@pytest.fixture
def stepped():
    """[norm of the gradients that an optimizer step used], from every step in this process."""
    norms = []

    def note(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(math.sqrt(sum(float(g.double().square().sum()) for g in gradients)))

    handle = torch_optimizer.register_optimizer_step_post_hook(note)
    yield norms
    handle.remove()


@pytest.fixture(scope="session")
def compose_config():
    """compose_config(*overrides, config_name="config") -> what Hydra would hand to the command."""
    register()

    def composed(*overrides, config_name="config", **options):
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            return compose(config_name, overrides=list(overrides), **options)

    return composed


@pytest.fixture
def tiny_overrides(models, tmp_path):
    """Overrides that point a run at the tiny models and at folders of this test."""
    return [
        f"policy.path={models}/policy",
        f"reward.proxy.path={models}/proxy",
        f"reward.gold.path={models}/gold",
        f"results={tmp_path}/results",
        f"cache={tmp_path}/cache",
    ]


@pytest.fixture
def configure(compose_config, tiny_overrides):
    """configure(*overrides) -> RunConfig on the tiny models, composed but not checked."""
    return lambda *overrides: OmegaConf.to_object(compose_config(*tiny_overrides, *overrides))


@pytest.fixture(scope="session")
def fewer_splits(some_reviews):
    return imdb.split_reviews(some_reviews)


@pytest.fixture
def fewer_reviews(monkeypatch, some_reviews, fewer_splits):
    """Commands in this process see a sixth of the wheel, cut once, to be quick; so do those that ask the hub."""
    monkeypatch.setattr(imdb, "read_wheel", lambda: some_reviews)
    monkeypatch.setattr(tasks, "fetched", lambda *_, **__: Path("snapshots/0123"))
    monkeypatch.setattr(imdb, "read_hub", lambda folder: some_reviews)
    monkeypatch.setattr(imdb, "split_reviews", lambda raw: fewer_splits if raw is some_reviews else {})


@pytest.fixture(scope="session")
def start():
    """start(*arguments, script="run.py", **environment) -> a Popen of a command, away from the repository's folder."""

    def started(*arguments, cwd, **environment):
        home = {"HOME": str(cwd), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "experiments" / "run.py"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**home, **environment},
        )

    return started


@pytest.fixture(scope="session")
def hand_pool():
    """hand_pool(proxy [P, N], gold=None, **columns) -> a scored pool in which little else matters."""

    def made(proxy, gold=None, **columns):
        proxy = np.asarray(proxy, dtype=float)
        p, n = proxy.shape
        gold = proxy if gold is None else np.asarray(gold, dtype=float)
        extra = columns.pop("scores", {})
        token_ids = np.arange(p * n * 4, dtype=np.int32).reshape(p, n, 4)
        pool = Candidates(
            prompts=[f"prompt {i}" for i in range(p)],
            prompt_token_ids=[[i + 1] for i in range(p)],
            texts=np.array([[f" response {i}.{j}" for j in range(n)] for i in range(p)], dtype=object),
            token_ids=token_ids,
            lengths=np.full((p, n), 4, dtype=np.int32),
            logprobs=np.full((p, n), -8.0),
            raw_logprobs=np.full((p, n), -8.0),
            ref_logprobs=np.full((p, n), -8.0),
            scores={"proxy": proxy, "gold": gold, **{k: np.asarray(v, dtype=float) for k, v in extra.items()}},
            metadata={"seconds": 2.0, "scoring_seconds": 1.0, "tokens": 4 * p * n},
        )
        return dataclasses.replace(pool, **columns)

    return made


@pytest.fixture(scope="session")
def random_pools(hand_pool):
    """{"base": [12, 8], "ppo": [12, 4]} with random scores, lengths and, for ppo, measured KL; proxy texts of 5 tokens."""
    rng = np.random.default_rng(5)
    base = hand_pool(
        rng.normal(size=(12, 8)), rng.normal(size=(12, 8)), lengths=rng.integers(1, 5, (12, 8)).astype(np.int32),
        logprobs=-rng.uniform(5, 20, (12, 8)), scores={"proxy_tokens": np.full((12, 8), 5.0)},
    )  # fmt: skip
    kl = rng.uniform(1, 3, (12, 4))
    tuned = hand_pool(rng.normal(1.0, 1.0, (12, 4)), rng.normal(0.5, 1.0, (12, 4)))
    tuned = tuned.with_scores(
        kl_monte_carlo=kl + rng.normal(size=(12, 4)), kl_rao_blackwell=kl, proxy_tokens=np.full((12, 4), 5.0)
    )
    return {"base": base, "ppo": tuned}


@pytest.fixture(scope="session")
def s3_bucket():
    """s3://pools on a server on loopback that speaks S3; clients in this process and in its children find it."""
    pytest.importorskip("s3fs", reason='needs pip install -e ".[dev]"')
    server_module = pytest.importorskip("moto.server", reason='needs pip install -e ".[dev]"')
    import fsspec

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "FSSPEC_S3_ENDPOINT_URL": f"http://{host}:{port}",
            "FSSPEC_S3_KEY": "user",
            "FSSPEC_S3_SECRET": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        fsspec.config.set_conf_env(fsspec.config.conf)
        fsspec.filesystem("s3").mkdir("pools")
        yield "s3://pools"
        fsspec.config.conf.pop("s3", None)
    server.stop()
