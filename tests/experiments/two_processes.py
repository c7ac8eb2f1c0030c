"""What the tests of several processes start in each of them: `two_processes.py SCENE MODELS FOLDER`."""

import hashlib
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "experiments")]

from suite.baselines import checkpoints, ppo, rollouts  # noqa: E402
from suite.baselines.interface import TrainingTask, train  # noqa: E402
from suite.comparison import processes  # noqa: E402
from suite.config.baselines import PPOConfig  # noqa: E402
from suite.config.run import JudgeConfig, PolicyConfig, RunConfig, SamplingConfig  # noqa: E402
from suite.models.policies import load_policy  # noqa: E402
from suite.models.rewards import load_judge  # noqa: E402
from suite.runtime import distributed  # noqa: E402

SETTINGS = {"updates": 4, "batch_size": 8, "checkpoint_every": 2, "num_mini_batches": 2, "num_ppo_epochs": 2}


def small_task(models, folder, **settings):
    """Prompts of 3 to 5 tokens, roll-outs of 6; some of them end early."""
    prompts = [list(range(7 * i + 10, 7 * i + 13 + i % 3)) for i in range(12)]
    return TrainingTask(
        config=PPOConfig(**{**SETTINGS, **settings}),
        sampling=SamplingConfig(max_new_tokens=6),
        policy=load_policy(PolicyConfig(name="tiny", path=f"{models}/policy"), torch.device("cpu")),
        proxy=load_judge(JudgeConfig(path=f"{models}/proxy", label="POSITIVE"), "reward.proxy", torch.device("cpu")),
        prompts=prompts,
        seed=0,
        folder=Path(folder),
    )


class Record:
    """Keeps the responses of every roll-out of this process, and a hash of its own weights after every update."""

    def __init__(self):
        self.responses, self.weights = [], []

    def __enter__(self):
        self.draw, self.keep = rollouts.RollOuts.draw, checkpoints.Checkpoints.keep

        def draw(roll_out, prompts, repeats):
            drawn = self.draw(roll_out, prompts, repeats)
            self.responses.append(np.where(np.arange(6) < drawn.lengths.numpy()[:, None], drawn.token_ids.numpy(), -1))
            return drawn

        def keep(kept):
            self.weights.append(hashed(kept.policy, kept.critic))
            self.keep(kept)

        rollouts.RollOuts.draw, checkpoints.Checkpoints.keep = draw, keep
        return self

    def __exit__(self, *_):
        rollouts.RollOuts.draw, checkpoints.Checkpoints.keep = self.draw, self.keep


def hashed(*models):
    """A hash of all parameters."""
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for m in models for p in m.parameters())).hexdigest()


def cut(models, folder):
    """The second process is killed in update 4, as a machine that goes down would have it."""
    real = rollouts.RollOuts.draw

    def draw(roll_out, prompts, repeats):
        if roll_out.update == 4 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(roll_out, prompts, repeats)

    rollouts.RollOuts.draw = draw
    train(small_task(models, folder / "cut"))


def twins(models, folder):
    """Each process has the rows, and their random numbers, of a single one with half the batch."""
    rows, half = SETTINGS["batch_size"] // 2, ppo.batch
    uniforms = rollouts.candidate_uniforms
    rollouts.candidate_uniforms = lambda seed, update, row, steps: uniforms(
        seed, update, range(row.start % rows, row.start % rows + 1), steps
    )
    ppo.batch = lambda seed, update, prompts, size: np.tile(half(seed, update, prompts, size // 2), 2)
    train(small_task(models, folder / "twins", updates=2))


def both(models, folder):
    """A whole training, then the one that was cut goes on; then twins."""
    for name in ("whole", "cut"):
        with Record() as record:
            train(small_task(models, folder / name))
        np.savez(folder / f"{name}-{distributed.rank()}.npz", responses=np.array(record.responses), weights=record.weights)
    twins(models, folder)


def late(models, folder):
    """Rows are exchanged; then the second process does not come."""
    rank = distributed.rank()
    assert distributed.size() == 2
    assert distributed.gathered(torch.arange(rank + 1) + 10 * rank).tolist() == [0, 10, 11]
    assert distributed.gathered(torch.full((2, 3), float(rank))).tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
    assert (distributed.total(3 + rank), distributed.as_first(5 + rank)) == (7, 5)
    assert distributed.share(8) == slice(4 * rank, 4 * rank + 4)
    assert distributed.determining() == {"processes": 2}
    (folder / f"exchanged-{rank}").touch()
    if rank == 1:
        time.sleep(600)
    distributed.barrier()


if __name__ == "__main__":
    scene, models, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if scene == "late":
        processes.PATIENCE = timedelta(seconds=5)
    processes.start(RunConfig(device="cpu", cache=str(folder), baseline=PPOConfig(**SETTINGS)))
    {"cut": cut, "both": both, "late": late}[scene](models, folder)
