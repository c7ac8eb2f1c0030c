"""Every key of `experiments/reproduce.py`, and what must hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from suite.config.planned import PlannedTraining, plan_rules
from suite.config.rules import Rule, check_writable, refuse
from suite.runtime.errors import UserError

#: The modules of `suite.studies` that are studies, in the order in which they run; those of the embedded models, and all.
EMBEDDED = ("frontier", "weak_proxy", "notebook", "benchmark")
STUDIES = (*EMBEDDED, "smollm2")


@dataclass
class FrontierConfig:
    """Best-of-n against PPO at several KL coefficients and against the other baselines, each with several seeds."""

    num_prompts: int = 512
    """Evaluation prompts."""
    num_candidates: int = 256
    """Candidates per prompt."""
    n: int = 8
    """Best of how many, in tables and sentences."""
    trainings: list[PlannedTraining] = field(default_factory=lambda: [PlannedTraining()])
    """Every training with its settings; the plan is in `conf/reproduce.yaml`."""
    optimum_prompts: int = 128
    """The first so many prompts have a larger pool, from which the optimum is known at small prices of KL; 0: none."""
    optimum_candidates: int = 2048
    """Candidates per prompt of that pool."""

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        large = self.optimum_prompts != 0
        return [
            *plan_rules("frontier.trainings", self.trainings),
            (
                not large or 2 <= self.optimum_prompts <= self.num_prompts,
                "frontier.optimum_prompts",
                self.optimum_prompts,
                f"0, or from 2 to frontier.num_prompts={self.num_prompts}",
            ),
            (
                not large or self.optimum_candidates > self.num_candidates,
                "frontier.optimum_candidates",
                self.optimum_candidates,
                f"greater than frontier.num_candidates={self.num_candidates}",
            ),
        ]


@dataclass
class WeakProxyConfig:
    """Best-of-n and PPO against a proxy that was taught by few reviews; the gold reward is the usual one."""

    num_prompts: int = 512
    """Evaluation prompts."""
    num_candidates: int = 256
    """Candidates per prompt."""
    n: int = 8
    """Best of how many, in tables and sentences."""
    labels: int = 30
    """Reviews that the proxy learns from; the usual one learns from ten thousand."""
    steps: int = 200
    """Steps of its training."""
    kl_coef: float = 0.0
    """Nothing holds the policy back: Gao et al. 2022 found that a penalty moves it along the same curve, only less far."""
    updates: int = 128
    """Updates of every training."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    """Seeds of PPO's trainings."""

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        return [
            (self.labels >= 2, "weak_proxy.labels", self.labels, "at least 2"),
            (self.steps >= 1, "weak_proxy.steps", self.steps, "at least 1"),
            *_listed("weak_proxy.seeds", self.seeds, 2, 0),
        ]


@dataclass
class NotebookConfig:
    """The protocol of TRL's best_of_n notebook next to more prompts, and its reward next to one that names its label."""

    num_prompts: int = 512
    """Evaluation prompts."""
    num_candidates: int = 64
    """Candidates per prompt."""
    n: int = 4
    """Best of how many."""
    protocol_prompts: int = 16
    """Prompts of the notebook."""
    kl_coefs: list[float] = field(default_factory=lambda: [0.2, 0.06, 0.6, 2.0])
    """The PPO policies that best-of-n is compared with; the first is the one of the table."""
    seed: int = 0
    """Of candidates and trainings."""
    repeats: int = 2000
    """How often each number of prompts is drawn again."""

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        return [
            *_listed("notebook.kl_coefs", self.kl_coefs, 1, 0),
            (self.seed >= 0, "notebook.seed", self.seed, "at least 0"),
            (self.repeats >= 100, "notebook.repeats", self.repeats, "at least 100"),
            (
                3 <= self.protocol_prompts < self.num_prompts,
                "notebook.protocol_prompts",
                self.protocol_prompts,
                f"at least 3 and less than notebook.num_prompts={self.num_prompts}",
            ),
        ]


@dataclass
class SmolLM2Config:
    """SmolLM2-135M: best-of-n against PPO at three KL coefficients. It takes a GPU, and `experiments/finetune.py` before."""

    num_prompts: int = 512
    """Evaluation prompts."""
    num_candidates: int = 256
    """Candidates per prompt."""
    n: int = 8
    """Best of how many, in tables and sentences."""
    kl_coefs: list[float] = field(default_factory=lambda: [0.03, 0.1, 0.3])
    """PPO is trained once for each, with every seed."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds of the trainings."""
    learning_rate: float = 7e-5
    """Of the trainings."""
    updates: int = 48
    """Updates of every training."""
    checkpoint_every: int = 16
    """Updates between checkpoints."""
    policy: str = "smollm2_imdb"
    """A choice of `conf/policy`."""
    reward: str = "smollm2"
    """A choice of `conf/reward`."""

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        return [
            *_listed("smollm2.kl_coefs", self.kl_coefs, 1, 0),
            *_listed("smollm2.seeds", self.seeds, 2, 0),
        ]


@dataclass
class ReproduceConfig:
    """Keys of `experiments/reproduce.py`."""

    studies: list[str] | None = None
    """Which; unless given all of them, but from scratch none that takes more than the embedded models."""
    figures: list[str] = field(default_factory=list)
    """The figures to draw, by name; all unless given."""
    from_scratch: bool = False
    """Run the studies again (also spelt --from-scratch) and compare with what `results` holds."""
    results: str = "results"
    """Where the committed studies are."""
    output: str = "cache/reproduced"
    """Where studies that are run again leave their files."""
    cache: str = "cache"
    """As in `experiments/run.py`."""
    workers: int = 1
    """Trainings at a time, each in a process of its own."""
    trainings: list[str] = field(default_factory=list)
    """From scratch: do only the trainings whose names match one of these, as in `ppo-kl_coef=0.2-*`; all unless given."""
    at_most: int | None = None
    """From scratch: do no more than so many trainings in this sitting; a later one goes on."""
    overrides: list[str] = field(default_factory=list)
    """Keys of `experiments/run.py` for every run of every study, as on its command line."""
    frontier: FrontierConfig = field(default_factory=FrontierConfig)
    weak_proxy: WeakProxyConfig = field(default_factory=WeakProxyConfig)
    notebook: NotebookConfig = field(default_factory=NotebookConfig)
    smollm2: SmolLM2Config = field(default_factory=SmolLM2Config)

    @property
    def chosen(self) -> list[str]:
        """The studies to rebuild or run, in order."""

        if self.studies is None:
            return list(EMBEDDED if self.from_scratch else STUDIES)
        return list(self.studies)

    def check(self) -> None:
        """Everything that can be known to be wrong before anything is read.

        Raises:
            UserError: names the key, its value and what is allowed.
        """

        for name in self.chosen:
            if name not in STUDIES:
                raise UserError(f"studies={name} is not a study: there are {', '.join(STUDIES)}")
        rules = [*_listed("studies", self.chosen, 1), (self.workers >= 1, "workers", self.workers, "at least 1")]
        rules.append((self.at_most is None or self.at_most >= 0, "at_most", self.at_most, "at least 0, or null"))
        partly = bool(self.trainings) or self.at_most is not None
        rules.append((self.from_scratch or not partly, "from_scratch", self.from_scratch, "true with trainings or at_most"))
        for section in (self.frontier, self.weak_proxy, self.notebook, self.smollm2):
            rules += section.rules()
        refuse(rules)
        for key in ("results", "output", "cache"):
            check_writable(key, getattr(self, key))


def _listed(key: str, values: Sequence[Any], shortest: int, lowest: float | None = None) -> list[Rule]:
    """What must hold of a list: its length, no entry twice, none too small."""
    twice = sorted({str(value) for value in values if list(values).count(value) > 1})
    rules: list[Rule] = [
        (not twice, key, list(values), f"a list without duplicates ({', '.join(twice)} is there twice)"),
        (len(values) >= shortest, key, list(values), f"a list of at least {shortest}"),
    ]
    if lowest is not None:
        rules.append((all(value >= lowest for value in values), key, list(values), f"numbers of at least {lowest}"))
    return rules
