"""One schema for everything that is tracked: each key, its meaning, unit and axis. docs/experiments/tracking.md shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from suite.config.baselines import TRAINERS
from suite.metrics import registry
from suite.metrics.rows import Row


@dataclass(frozen=True)
class Key:
    """Meaning of a key: its description, its unit, and its axis (`n`, `update`, or "" for what there is once)."""

    meaning: str
    unit: str
    axis: str = ""


#: Measured on the evaluation prompts: `bon/*` against n, `eval/*` against the update, `final/*` at the end.
MEASURES = {name: Key(metric.meaning, metric.unit, metric.axis) for name, metric in registry.MEASURES.items()}
#: What a method gains of the optimum, once: under `final/*`.
OBJECTIVES = {name: Key(metric.meaning, metric.unit, metric.axis) for name, metric in registry.OBJECTIVES.items()}
#: What a request costs (against n), and what training has cost so far (against the update).
COSTS = {name: Key(metric.meaning, metric.unit, metric.axis) for name, metric in registry.COSTS.items()}
FINAL = {**MEASURES, **OBJECTIVES}
#: Against n = 1, 2, 4, ..., of the candidate that is best by proxy.
HISTOGRAMS = {
    "proxy_histogram": Key("proxy reward over prompts and draws", "responses"),
    "gold_histogram": Key("gold reward over prompts and draws", "responses"),
}
#: What trainers write into their rows of the log: `<method>/*` against the update.
UPDATES = {
    "objective/kl": Key("KL of the roll-outs to the base policy", "nats"),
    "objective/kl_rao_blackwell": Key("KL of the roll-outs to the base policy, sum of the tokens' KLs", "nats"),
    "objective/scores": Key("mean proxy reward of the roll-outs", "logit"),
    "objective/entropy": Key("minus the log-probability of a roll-out", "nats"),
    "objective/non_score_reward": Key("mean KL penalty of a roll-out", "logit"),
    "objective/rlhf_reward": Key("proxy reward with the KL penalty", "logit"),
    "policy/approxkl_avg": Key("half the squared change of the tokens' log-probabilities in an update", "nats"),
    "policy/clipfrac_avg": Key("tokens whose probability ratio is clipped", "share"),
    "policy/entropy_avg": Key("entropy of the policy, a token", "nats"),
    "policy/grad_norm": Key("gradient norm before clipping", "1"),
    "loss": Key("loss of the trainer", "1"),
    "loss/policy_avg": Key("policy loss", "1"),
    "loss/value_avg": Key("value loss", "1"),
    "val/clipfrac_avg": Key("values that are clipped", "share"),
    "val/ratio": Key("mean probability ratio, new to old policy", "1"),
    "val/ratio_var": Key("its variance over minibatches", "1"),
    "val/num_eos_tokens": Key("end-of-sequence tokens in the roll-outs", "tokens"),
    "val/explained_variance": Key("share of the returns' variance that the critic foretells", "share"),
    "response/length": Key("mean tokens of a roll-out", "tokens"),
    "response/eos_rate": Key("roll-outs that ended by themselves", "share"),
    "response/distinct_2": Key("distinct pairs of tokens over all pairs of the roll-outs", "share"),
    "kl": Key("KL to the base policy, a token", "nats"),
    "entropy": Key("entropy of the policy, a token", "nats"),
    "reward": Key("mean proxy reward of the roll-outs", "logit"),
    "reward_std": Key("standard deviation of the reward within a prompt's responses", "logit"),
    "rewards/proxy/mean": Key("mean proxy reward of the roll-outs", "logit"),
    "rewards/proxy/std": Key("standard deviation of the proxy reward", "logit"),
    "frac_reward_zero_std": Key("prompts whose responses all have one reward", "share"),
    "completions/mean_length": Key("mean tokens of a roll-out", "tokens"),
    "completions/min_length": Key("fewest tokens of a roll-out", "tokens"),
    "completions/max_length": Key("most tokens of a roll-out", "tokens"),
    "completions/clipped_ratio": Key("roll-outs cut at the longest length", "share"),
    "completions/mean_terminated_length": Key("mean tokens of the roll-outs that ended", "tokens"),
    "completions/min_terminated_length": Key("fewest tokens of those", "tokens"),
    "completions/max_terminated_length": Key("most tokens of those", "tokens"),
    "clip_ratio/region_mean": Key("tokens whose probability ratio is clipped", "share"),
    "clip_ratio/low_mean": Key("tokens clipped from below", "share"),
    "clip_ratio/low_min": Key("fewest of those in a minibatch", "share"),
    "clip_ratio/high_mean": Key("tokens clipped from above", "share"),
    "clip_ratio/high_max": Key("most of those in a minibatch", "share"),
    **{f"reward/quantile_{q}": Key(f"{q}% quantile of the proxy reward", "logit") for q in (10, 25, 50, 75, 90)},
    "reward/histogram": Key("proxy reward of the update's responses", "responses"),
    "lr": Key("learning rate", "1"),
    "lam": Key("lambda of generalized advantage estimation", "1"),
    "eps": Key("responses a second, as the trainer counts", "1/s"),
    "episode": Key("responses seen so far", "responses"),
    "tokens": Key("response tokens drawn in the update", "tokens"),
    "reward_tokens": Key("tokens that the proxy read in the update", "tokens"),
    "flops": Key("model FLOPs of the update", "FLOP"),
    "seconds": Key("time of the update", "s"),
    "tokens_per_second": Key("response tokens drawn over the time of the update", "1/s"),
}
#: Of the whole comparison, once.
TABLES = {
    "samples": Key("query; response and proxy reward of base policy, best-of-n and tuned policy", "table"),
    "frontier": Key("reward against KL, a line for each curve and kind of KL, with intervals", "chart"),
}
AXES = {
    "n": Key("best of how many: the axis of `bon/*` and of a request's costs", "1"),
    "update": Key("update of the training: the axis of `<method>/*` and `eval/*`", "1"),
}
INTERVAL = ("_ci_low", "_ci_high")


def values_of(rows: Sequence[Row], prefix: str) -> dict[str, float]:
    """Rows of one place on an axis by key, costs under `cost/`, with the ends of their intervals."""
    values: dict[str, float] = {}
    for row in rows:
        key = f"{'cost' if row.metric in COSTS else prefix}/{row.metric}" + (f"_{row.kl_kind}" if row.kl_kind else "")
        values[key] = row.value
        if row.ci_low is not None and row.ci_high is not None:
            values.update(zip((key + end for end in INTERVAL), (row.ci_low, row.ci_high), strict=True))
    return values


def look_up(key: str) -> Key | None:
    """Return the meaning of a key that was logged; None if it is no key of the schema."""
    for end in INTERVAL:
        key = key.removesuffix(end)
    if key in AXES:
        return AXES[key]
    if key.removesuffix("_table") in TABLES:
        return TABLES[key.removesuffix("_table")]
    prefix, _, rest = key.partition("/")
    if prefix == "figures":
        return Key("a figure of the run", "image")
    known = {"bon": {**MEASURES, **HISTOGRAMS}, "eval": MEASURES, "final": FINAL, "cost": COSTS}
    found = (UPDATES if prefix in TRAINERS else known.get(prefix, {})).get(rest)
    if found is None:
        return None
    axis = {"bon": "n", "eval": "update", **dict.fromkeys(TRAINERS, "update")}.get(prefix, found.axis)
    return Key(found.meaning, found.unit, axis)


def table() -> str:
    """The schema as the Markdown table of docs/experiments/tracking.md."""
    groups = {"bon": {**MEASURES, **HISTOGRAMS}, "eval": MEASURES, "final": FINAL, "cost": COSTS}
    names = [*AXES, *(f"{prefix}/{name}" for prefix, group in groups.items() for name in group), *TABLES, "figures/<name>"]
    lines = ["| key | meaning | unit | step metric |", "| --- | --- | --- | --- |"]
    for name in [*names, *(f"ppo/{name}" for name in UPDATES)]:
        key = look_up(name)
        assert key is not None
        shown = name.replace("ppo/", "<method>/", 1) if name.startswith("ppo/") else name
        lines.append(f"| `{shown}` | {key.meaning} | {key.unit} | {f'`{key.axis}`' if key.axis else ''} |")
    return "\n".join(lines) + "\n"
