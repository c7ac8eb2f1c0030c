"""Over-optimisation: best-of-n and PPO against a proxy that few reviews have taught, judged by the usual gold reward."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from pathlib import Path

from suite.config.models import PretrainConfig, TrainingSettings
from suite.config.run import RunConfig
from suite.config.studies import ReproduceConfig, WeakProxyConfig
from suite.data import imdb
from suite.models.policies import check_files
from suite.pretrain import embedded_models
from suite.runtime.errors import UserError
from suite.runtime.hashing import digest
from suite.runtime.paths import located
from suite.studies import against_trained
from suite.studies.drawing import draw, run_config, shared_overrides
from suite.studies.store import load_study

_LAYERS = 2  # of the policy; a judge of few reviews has no use for more
_FORMAT = 3
#: Beside the proxy: the seconds in which it was taught.
_SECONDS = "seconds.txt"


def run(config: ReproduceConfig, folder: Path) -> None:
    """Teach the proxy, draw, train against it, and store it all."""
    settings = config.weak_proxy
    shared = (
        *shared_overrides(config, settings),
        "baseline=ppo",
        f"baseline.kl_coef={settings.kl_coef}",
        f"baseline.updates={settings.updates}",
        "baseline.evaluate_every=1",  # gold turns over somewhere in between
    )
    proxy = weak_proxy(run_config(*shared), settings)
    judged = (*shared, f"reward.proxy.path={proxy}", "reward.proxy.label=POSITIVE")
    runs = [("", run_config(*judged, f"seed={seed}")) for seed in settings.seeds]
    spent = {"weak proxy": float((located(proxy).parent / _SECONDS).read_text())}
    draw(config, "weak_proxy", folder, settings, runs, spent)


def rebuild(folder: Path) -> None:
    """Write `metrics.csv` and `findings.json` from the stored pools."""
    against_trained.rebuild(folder, "weak_proxy", load_study(folder, "weak_proxy", WeakProxyConfig))


def weak_proxy(run: RunConfig, settings: WeakProxyConfig) -> Path:
    """The folder of the proxy that `settings.labels` reviews have taught, made as the embedded one is; cached.

    Relative where `run.cache` is: it goes into the study's configuration, which is good on other machines too.

    Raises:
        UserError: the policy is not a folder, or there are fewer reviews.
    """
    policy = located(run.policy.path)
    check_files(run.policy.path, "policy.path")
    if not policy.is_dir():
        raise UserError(f"policy.path={run.policy.path}: the weak proxy starts from a policy in a folder; use policy=tiny")
    splits = imdb.split_reviews(imdb.read_wheel())
    if settings.labels > len(splits["proxy"]):
        raise UserError(f"weak_proxy.labels={settings.labels}: the split `proxy` has {len(splits['proxy'])} reviews")
    weights = hashlib.sha256((policy / "model.safetensors").read_bytes()).hexdigest()
    key = digest({"format": _FORMAT, "policy": weights, "labels": settings.labels, "steps": settings.steps})
    made = Path(run.cache) / "weak_proxy" / key
    folder = located(made)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
            making = Path(scratch) / "models"
            shutil.copytree(policy, making / "policy")
            recipe = PretrainConfig(output=str(making))
            recipe.proxy = TrainingSettings(
                steps=settings.steps,
                batch_size=32,
                context=128,
                learning_rate=1e-3,
                matrix_learning_rate=0.005,
                warmup_steps=max(settings.steps // 10, 1),
                seed=1,
            )
            start = time.perf_counter()
            embedded_models.make_labelled_proxy(recipe, splits["proxy"][: settings.labels], _LAYERS)
            (making / _SECONDS).write_text(f"{time.perf_counter() - start:.3f}\n")
            making.rename(folder)
    return made / "proxy"
