"""What the tests of a killed training start: `killed_training.py MODELS FOLDER...` trains PPO in each folder in turn."""

import sys
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "experiments")]

from suite.baselines.interface import TrainingTask, train  # noqa: E402
from suite.config.baselines import PPOConfig  # noqa: E402
from suite.config.run import JudgeConfig, PolicyConfig, SamplingConfig  # noqa: E402
from suite.models.policies import load_policy  # noqa: E402
from suite.models.rewards import load_judge  # noqa: E402

UPDATES = 20


def main(models, *folders):
    """Prompts of 3 to 5 tokens, roll-outs of 6; a checkpoint after every third update."""
    for folder in folders:
        task = TrainingTask(
            config=PPOConfig(updates=UPDATES, batch_size=16, checkpoint_every=3, num_ppo_epochs=2),
            sampling=SamplingConfig(max_new_tokens=6),
            policy=load_policy(PolicyConfig(name="tiny", path=f"{models}/policy"), torch.device("cpu")),
            proxy=load_judge(JudgeConfig(path=f"{models}/proxy", label="POSITIVE"), "reward.proxy", torch.device("cpu")),
            prompts=[list(range(7 * i + 10, 7 * i + 13 + i % 3)) for i in range(20)],
            seed=0,
            folder=Path(folder),
        )
        train(task)


if __name__ == "__main__":
    main(*sys.argv[1:])
