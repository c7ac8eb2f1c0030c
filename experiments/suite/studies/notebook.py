"""TRL's best_of_n notebook done right: its 16 prompts next to all, and its reward next to one that names its label.

The notebook drew one response a prompt and method, for 16 prompts, and its reward read the score of the winning label: of a
classifier with one logit that is the logit's size whatever its sign, so `abs(proxy)` stands for it here. Its conclusions are
drawn again and again from pools that are big enough to know the truth.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bon.estimators import best_of_n_mean
from bon.intervals import paired_difference
from suite.config.studies import NotebookConfig, ReproduceConfig
from suite.metrics.evaluation import Study
from suite.metrics.naming import named
from suite.metrics.rows import Row, write_rows
from suite.runtime.files import rounded, write_json
from suite.studies.drawing import draw, run_config, shared_overrides
from suite.studies.protocols import Detection, detection
from suite.studies.store import Stored, Trained, load_study

Array = NDArray[np.float64]
#: What a protocol's setting says of its reward, and what that reward reads of the proxy's logit.
REWARDS: dict[str, Callable[[Array], Array]] = {"": np.asarray, " label=winning": np.abs}


def run(config: ReproduceConfig, folder: Path) -> None:
    """Draw the base policy's pool, train PPO at every KL coefficient, and store it all."""
    settings = config.notebook
    shared = (*shared_overrides(config, settings), "baseline=ppo", f"seed={settings.seed}")
    runs = [(f"kl_coef={kl_coef:g}", run_config(*shared, f"baseline.kl_coef={kl_coef}")) for kl_coef in settings.kl_coefs]
    draw(config, "notebook", folder, settings, runs)


def rebuild(folder: Path) -> None:
    """Write `metrics.csv` and `findings.json` from the stored pools."""
    stored = load_study(folder, "notebook", NotebookConfig)
    settings, study = stored.settings, Study(stored.base, 0, stored.resamples)
    write_rows(list(protocol_rows(study, stored)), folder / "metrics.csv")
    wrong = _wrong_label(study, stored)
    detections = [_detected(study, stored, trained) for trained in (None, *stored.trained)]
    found = {
        "study": "notebook",
        **{key: getattr(settings, key) for key in ("n", "protocol_prompts", "repeats")},
        "detection": detections,
        "wrong_label": wrong,
        "sentences": [*(_sentence(found, settings.protocol_prompts) for found in detections), _wrong_sentence(wrong)],
    }
    write_json(folder / "findings.json", rounded(found))


def protocol_rows(study: Study, stored: Stored) -> Iterator[Row]:
    """The notebook's table by each protocol: `proxy` as the protocol's reward reads it, and gold.

    Few prompts have one draw of every method each, as in the notebook; all prompts have all their candidates.
    """
    settings, trained = stored.settings, stored.trained[0]
    few = settings.protocol_prompts
    for count, reward in itertools.product((few, settings.num_prompts), REWARDS):
        once = count == few
        for pool, method, step, n in (
            (stored.base, "base", None, 1),
            (stored.base, named("base", settings.n), None, settings.n),
            (trained.final, trained.method, trained.last, 1),
        ):
            drawn = n if once else pool.num_candidates
            read, gold = (pool.scores[name][:count, :drawn] for name in ("proxy", "gold"))
            read = REWARDS[reward](read)
            for metric, values in (("proxy", read), ("gold", gold)):
                value, low, high = (float(part) for part in study.interval(best_of_n_mean(read, values)[:, n - 1]))
                seed = None if step is None else trained.seed
                setting = f"num_prompts={count}{reward}"
                yield Row(method, seed, step, n, metric, value, low, high, setting=setting)


def prompt_counts(settings: NotebookConfig) -> list[int]:
    """The notebook's number of prompts and its doublings, and all prompts."""
    doubled = [settings.protocol_prompts * 2**k for k in range(20)]
    return sorted({count for count in doubled if count < settings.num_prompts} | {settings.num_prompts})


def _detected(study: Study, stored: Stored, trained: Trained | None) -> dict[str, Any]:
    """Best-of-n against the base policy (None) or a trained one, in gold reward: the truth, and who finds it."""
    settings, base = stored.settings, stored.base
    other, name = (base, "base") if trained is None else (trained.final, trained.label)
    curve = best_of_n_mean(base.scores["proxy"], base.scores["gold"])[:, settings.n - 1]
    truth = paired_difference(curve, other.scores["gold"].mean(1), study.rng(), resamples=study.resamples)

    def found(count: int) -> Detection:
        best, one = (base.scores["proxy"], base.scores["gold"]), (other.scores["proxy"], other.scores["gold"])
        return detection((*best, settings.n), (*one, 1), truth.value, count, settings.repeats, study.seed)

    by_prompts = [asdict(found(count)) for count in prompt_counts(settings)]
    of = {} if trained is None else {"seed": trained.seed}
    return {"comparison": f"best_of_n - {name}", **of, "truth": truth._asdict(), "by_prompts": by_prompts}


def _chosen(stored: Stored, by: str, values: Array) -> Array:
    """Mean value of best-of-n of the base policy, selected by the label's logit or by the winning label's: [P]."""
    proxy = stored.base.scores["proxy"]
    return np.asarray(best_of_n_mean(proxy if by == "label" else np.abs(proxy), values)[:, stored.settings.n - 1])


def _wrong_label(study: Study, stored: Stored) -> dict[str, Any]:
    """What the notebook's reward does to best-of-n, and what its table would say: paired differences over all prompts."""
    proxy, gold = stored.base.scores["proxy"], stored.base.scores["gold"]

    def difference(a: Array, b: Array) -> dict[str, float]:
        return paired_difference(a, b, study.rng(), resamples=study.resamples)._asdict()

    wrong, right = _chosen(stored, "winning label", gold), _chosen(stored, "label", gold)
    reported = _chosen(stored, "winning label", np.abs(proxy))
    return {
        "gold_gain_selected_by_label": difference(right, gold.mean(1)),
        "gold_gain_selected_by_winning_label": difference(wrong, gold.mean(1)),
        "gold_label_minus_winning_label": difference(right, wrong),
        "negative_share": {
            "base": float(np.mean(proxy < 0)),
            "selected by label": float(_chosen(stored, "label", (proxy < 0).astype(float)).mean()),
            "selected by winning label": float(_chosen(stored, "winning label", (proxy < 0).astype(float)).mean()),
        },
        "reported_gain": difference(reported, np.abs(proxy).mean(1)),
        "against_trained": {
            trained.label: {
                "seed": trained.seed,
                "reported": difference(reported, np.abs(trained.final.scores["proxy"]).mean(1)),
                "gold": difference(wrong, trained.final.scores["gold"].mean(1)),
                "gold_selected_by_label": difference(right, trained.final.scores["gold"].mean(1)),
            }
            for trained in stored.trained
        },
    }


def _sentence(found: dict[str, Any], protocol: int) -> str:
    truth: dict[str, float] = found["truth"]
    first, last = found["by_prompts"][0], found["by_prompts"][-1]
    return (
        f"{found['comparison']}: {truth['value']:+.2f} in gold reward [{truth['low']:+.2f}, {truth['high']:+.2f}]; "
        f"{protocol} prompts with one draw each find the sign in {first['right_sign']:.0%} of studies and call it "
        f"significant in {first['significant_right']:.0%}, {last['num_prompts']} prompts in {last['right_sign']:.0%} and "
        f"{last['significant_right']:.0%}."
    )


def _wrong_sentence(wrong: dict[str, Any]) -> str:
    gains: Sequence[dict[str, float]] = [
        wrong[key] for key in ("gold_gain_selected_by_label", "gold_gain_selected_by_winning_label", "reported_gain")
    ]
    right, lost, reported = (f"{gain['value']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]" for gain in gains)
    negative: dict[str, float] = wrong["negative_share"]
    return (
        f"Selected by the label's logit best-of-n gains {right} in gold reward, selected by the winning label's {lost}, while "
        f"the winning label's score itself reports {reported}; {negative['selected by winning label']:.0%} of its choices are "
        f"negative ({negative['base']:.0%} of all responses are)."
    )
