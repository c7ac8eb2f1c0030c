"""The W&B dashboard as code: a workspace and a report on all comparisons of a project, by the keys of `suite.tracking`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from suite.config.baselines import trained_baselines
from suite.tracking.to_wandb import LINES

#: The workspace and the report are known by this name: saving again updates them.
NAME = "Best-of-n or PPO?"
_TRAINED = trained_baselines()
#: Trainers whose log has a KL per update.
_WITH_KL = [method for method in _TRAINED if method != "bon_sft"]
_PPO_HEALTH = {
    "Approximate KL of an update": ["policy/approxkl_avg"],
    "Clipped tokens": ["policy/clipfrac_avg"],
    "Probability ratio": ["val/ratio"],
    "Entropy a token": ["policy/entropy_avg"],
    "Variance of the returns that the critic explains": ["val/explained_variance"],
    "Responses that end by themselves": ["response/eos_rate"],
    "Distinct pairs of tokens": ["response/distinct_2"],
    "KL to the base policy, both estimates": ["objective/kl", "objective/kl_rao_blackwell"],
    "Value loss": ["loss/value_avg"],
    "Policy loss": ["loss/policy_avg"],
    "Gradient norm before clipping": ["policy/grad_norm"],
    "Quantiles of the reward": [f"reward/quantile_{q}" for q in (10, 50, 90)],
}


def _lines(title: str, x: str, *y: str, log_x: bool = False) -> wr.LinePlot:
    """A line for each kind of job: the mean over its runs (seeds), with the band of their standard deviation."""
    return wr.LinePlot(
        title=title, x=x, y=list(y), log_x=log_x or None, max_runs_to_show=100,
        groupby="JobType", groupby_aggfunc="mean", groupby_rangefunc="stddev",
    )  # fmt: skip


def sections() -> dict[str, list[Any]]:
    """Section -> panels."""
    frontier = wr.CustomChart(
        query={"summaryTable": {"tableKey": "frontier_table"}},
        chart_name=LINES,
        chart_fields={"step": "kl", "lineKey": "curve", "lineVal": "gold"},
        chart_strings={"title": "Gold reward against KL to the base policy (nats)", "xname": "kl"},
    )
    at_the_end = wr.ScatterPlot(
        title="Gold reward against KL at the end, a point a run",
        x=wr.SummaryMetric("final/kl_rao_blackwell"),
        y=wr.SummaryMetric("final/gold"),
    )
    return {
        "Reward against n": [
            _lines("Gold reward of best-of-n", "n", "bon/gold", log_x=True),
            _lines("Proxy reward of best-of-n", "n", "bon/proxy", log_x=True),
            _lines("Gold reward, its interval over prompts", "n", "bon/gold", "bon/gold_ci_low", "bon/gold_ci_high"),
        ],
        "Reward against KL": [
            frontier,
            at_the_end,
            _lines("Gold reward of checkpoints against measured KL", "eval/kl_rao_blackwell", "eval/gold"),
            _lines("Reward of roll-outs against their KL", "ppo/objective/kl", "ppo/objective/scores"),
        ],
        "Win rate": [
            _lines("Win rate of best-of-n against one base response", "n", "bon/win_rate", log_x=True),
            _lines("Win rate of checkpoints", "update", "eval/win_rate"),
        ],
        "Histograms": [
            wr.MediaBrowser(title="Rewards of best-of-n", media_keys=["bon/proxy_histogram", "bon/gold_histogram"]),
            wr.MediaBrowser(title="Rewards in training", media_keys=["ppo/reward/histogram"]),
            wr.MediaBrowser(title="Figures", media_keys=["figures/reward_vs_n", "figures/reward_vs_kl", "figures/cost"]),
        ],
        "Samples": [wr.MediaBrowser(title="Responses side by side", media_keys=["samples"], num_columns=1)],
        "Cost and break-even": [
            _lines("Tokens a request", "n", "cost/tokens_per_request", log_x=True),
            _lines("Tokens that the reward model reads a request", "n", "cost/reward_tokens_per_request", log_x=True),
            _lines("FLOPs a request", "n", "cost/flops_per_request", log_x=True),
            _lines("Seconds a request", "n", "cost/seconds_per_request", log_x=True),
            _lines("Tokens that the reward model read in training so far", "update", "cost/training_reward_tokens"),
            _lines("FLOPs of training so far", "update", "cost/training_flops"),
            wr.BarPlot(title="Requests until training pays off", metrics=["cost/break_even_requests"], groupby="JobType"),
            wr.BarPlot(
                title="Gold reward of best-of-n minus the policy at equal FLOPs a request",
                metrics=["cost/equal_flops_difference"],
                groupby="JobType",
            ),
            wr.BarPlot(title="Worth best-of-n", metrics=["cost/equivalent_n"], groupby="JobType"),
        ],
        "Training": [
            _lines("Reward of roll-outs", "update", *(f"{method}/objective/scores" for method in _TRAINED)),
            _lines("KL of roll-outs", "update", *(f"{method}/objective/kl" for method in _WITH_KL)),
        ],
        "PPO health": [
            _lines(title, "update", *(f"ppo/{name}" for name in names)) for title, names in _PPO_HEALTH.items()
        ],
        "Runs": [wr.RunComparer(diff_only="split")],
    }  # fmt: skip


def workspace(entity: str, project: str) -> ws.Workspace:
    """The workspace, not saved yet."""
    made = [ws.Section(name=name, panels=panels, is_open=index < 3) for index, (name, panels) in enumerate(sections().items())]
    return ws.Workspace(entity=entity, project=project, name=NAME, sections=made, auto_generate_panels=False)


def report(entity: str, project: str) -> wr.Report:
    """The report, not saved yet."""
    blocks: list[Any] = [
        wr.P(
            "Best-of-n against fine-tuned policies on the same prompts, by the same rewards. Lines are means over seeds, "
            "bands their standard deviation; the KL of best-of-n is an upper bound, that of tuned policies is measured."
        )
    ]
    for name, panels in sections().items():
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[wr.Runset()], panels=panels)]
    return wr.Report(entity=entity, project=project, title=NAME, description="Made by experiments/dashboard.py", blocks=blocks)


def as_json(entity: str, project: str) -> dict[str, Any]:
    """Both as W&B stores them; that they can be made is the libraries' own validation."""
    return {
        "workspace": json.loads(workspace(entity, project)._to_model().model_dump_json(by_alias=True, exclude_none=True)),
        "report": json.loads(report(entity, project)._to_model().model_dump_json(by_alias=True, exclude_none=True)),
    }


def keys(specification: Any) -> Iterator[str]:
    """Every key that panels in such JSON name."""
    if isinstance(specification, list):
        for item in specification:
            yield from keys(item)
    elif isinstance(specification, dict):
        if specification.get("name") == "tableKey":
            yield str(specification["value"])
        for name, value in specification.items():
            if name in ("metrics", "mediaKeys"):
                yield from value
            elif name in ("xAxis", "yAxis") and isinstance(value, str):
                if value != "_step":  # W&B's own, which is there in any case
                    yield value.removeprefix("summary:")
            else:
                yield from keys(value)
