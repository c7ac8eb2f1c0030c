"""Speed, side by side in one process, in turns: this sampler against its rivals, this PPO against stock TRL."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from suite.baselines.interface import TrainingTask
from suite.baselines.ppo import stock_update_seconds
from suite.baselines.ppo import train as train_ppo
from suite.benchmark.contenders import Contender, ContinuousBatching, Drawing, Generate, Ours
from suite.benchmark.gemm_limit import MatrixProducts
from suite.benchmark.trl_0_24 import OldTRL, environment
from suite.benchmark.turns import UnavailableError, in_turns, line, reason
from suite.config.baselines import PPOConfig
from suite.config.benchmark import BenchmarkConfig
from suite.data import imdb
from suite.metrics.speeds import Speed
from suite.models.policies import load_policy
from suite.models.rewards import load_judge
from suite.runtime.device import choose_device, has_bfloat16, mixes
from suite.runtime.errors import UserError
from suite.runtime.paths import located


def measure(config: BenchmarkConfig) -> list[Speed]:
    """Every line of the table that `config.parts` asks for.

    Raises:
        UserError: a key is wrong, a model cannot be loaded, or the data hold fewer prompts.
    """
    config.check()
    device = choose_device("auto")
    policy = load_policy(config.policy, device)
    splits = imdb.split_reviews(imdb.read_wheel())

    def prompts(split: str) -> list[list[int]]:
        return imdb.make_prompts(splits[split], lambda text: policy.tokenizer(text)["input_ids"])

    speeds: list[Speed] = []
    if "sampler" in config.parts:
        chosen = prompts("evaluation")
        if len(chosen) < config.num_prompts:
            raise UserError(f"num_prompts={config.num_prompts} is not allowed: the evaluation split has {len(chosen)}")
        speeds += sampler_speeds(config, Drawing(policy, chosen[: config.num_prompts], config.sampling))
    if "ppo" in config.parts:
        proxy = load_judge(config.reward.proxy, "reward.proxy", device)
        task = TrainingTask(config.baseline, config.sampling, policy, proxy, prompts("ppo"), 0, Path())
        speeds += ppo_speeds(task, config.updates, config.rounds)
    return speeds


def sampler_speeds(config: BenchmarkConfig, drawing: Drawing) -> list[Speed]:
    """Tokens a second of drawing n responses for every prompt, for every contender and n. Reference: this sampler in fp32."""
    lines = []
    with ExitStack() as stack:
        field = contenders(config, drawing, stack)
        ours = field[0].name
        for n in config.ns:
            runs = {contender.name: partial(contender.speed, n) for contender in field}
            speeds = in_turns(runs, config.rounds, label=f"sampling, n={n}")
            limits = {contender.dtype: speeds[contender.name] for contender in field if contender.name.startswith("limit")}
            for contender in field:
                found = speeds[contender.name]
                lines.append(
                    line(
                        what="sampling",
                        n=n,
                        contender=contender.name,
                        speeds=found,
                        unit="tokens/s",
                        reference=speeds[ours],  # type: ignore[arg-type]  # its errors are raised
                        limit=limits[contender.dtype],
                        note="" if isinstance(found, str) else contender.note(n),
                    )
                )
    return lines


def contenders(config: BenchmarkConfig, drawing: Drawing, stack: ExitStack) -> list[Contender]:
    """This sampler, the rivals that `config.rivals` names and the machine's limits; one that cannot be made is absent.

    Args:
        config: which rivals, with which settings.
        drawing: what they draw.
        stack: ends what they started.
    """
    single, half = torch.float32, torch.bfloat16
    model, parameters = drawing.policy.model, drawing.policy.parameters

    def generate(dtype: torch.dtype) -> Contender:
        return Generate(drawing, dtype, config.batch_sizes)

    def limit(dtype: torch.dtype) -> Contender:
        return MatrixProducts(parameters, dtype, model.device)

    def continuous_batching() -> Contender:
        rival = ContinuousBatching(drawing)
        stack.callback(rival.close)
        return rival

    def old_trl() -> Contender:
        folder = located(config.cache) / "trl-0.24.0"
        folder.parent.mkdir(parents=True, exist_ok=True)
        rival = OldTRL(drawing, environment(folder), folder / "stderr.log")
        stack.callback(rival.close)
        return rival

    def compiled(dtype: torch.dtype) -> Contender:
        return Ours(drawing, dtype, compile=True)

    makers: list[tuple[str | None, str, torch.dtype, Callable[[], Contender]]] = [
        ("compiled", "bon compiled, fp32", single, partial(compiled, single)),
        ("generate", "transformers generate, fp32", single, partial(generate, single)),
        ("bf16", "bon, bf16", half, lambda: Ours(drawing, half)),
        ("compiled", "bon compiled, bf16", half, partial(compiled, half)),
        ("bf16", "transformers generate, bf16", half, partial(generate, half)),
        ("continuous_batching", "transformers continuous batching, fp32", single, continuous_batching),
        ("trl", OldTRL.name, single, old_trl),
        (None, "limit: matrix products, fp32", single, partial(limit, single)),
        ("bf16", "limit: matrix products, bf16", half, partial(limit, half)),
    ]
    field: list[Contender] = [Ours(drawing, single)]
    for rival, name, dtype, make in makers:
        if (rival is None or rival in config.rivals) and (dtype == single or "bf16" in config.rivals):
            try:
                field.append(make())
            except Exception as error:  # as in `in_turns`: the reason becomes a row
                field.append(Absent(name, dtype, reason(error)))
    return field


@dataclass
class Absent:
    """A contender that could not be made."""

    name: str
    dtype: torch.dtype
    why: str

    def speed(self, n: int) -> float:
        """Raises UnavailableError."""
        raise UnavailableError(self.why)

    def note(self, n: int) -> str:
        """Why it is absent."""
        return self.why


def ppo_speeds(task: TrainingTask, updates: int, rounds: int) -> list[Speed]:
    """Updates of PPO a minute at equal settings; in bfloat16 too where that is not the default and the device has it.

    Reference: this project's, whose critic shares the policy's trunk.
    """
    assert isinstance(task.config, PPOConfig)
    config = replace(task.config, updates=updates, checkpoint_every=updates)

    def ours(critic: str, precision: str = config.precision) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            own = replace(config, critic=critic, precision=precision)
            settings = replace(task, config=own, folder=Path(folder))
            return [row["seconds"] for row in train_ppo(settings).log]

    def a_minute(seconds: Callable[[], Sequence[float]]) -> float:
        gc.collect()
        # The first update carries one-time costs.
        return 60 / float(np.median(seconds()[1:]))

    device, half = task.policy.model.device, {}
    if has_bfloat16(device) and not mixes(device, config.precision):
        half = {
            "ours, shared critic, bf16": partial(a_minute, partial(ours, "shared", "bfloat16")),
            "ours, critic of its own, bf16": partial(a_minute, partial(ours, "own", "bfloat16")),
        }
    contenders = {
        "ours, shared critic": partial(a_minute, partial(ours, "shared")),
        "ours, critic of its own": partial(a_minute, partial(ours, "own")),
        **half,
        "stock TRL": partial(a_minute, lambda: stock_update_seconds(replace(task, config=config))),
    }
    speeds = in_turns(contenders, rounds, label="PPO updates", warm_up=False)
    what = f"PPO update, {config.batch_size} prompts, {config.num_ppo_epochs} epochs"
    reference = speeds["ours, shared critic"]
    return [line(what, None, name, found, "updates/min", reference) for name, found in speeds.items()]  # type: ignore[arg-type]
