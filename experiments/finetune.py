"""Teach a policy film reviews, or make a reward of its first layers: what the comparison then starts from.

python experiments/finetune.py                              SmolLM2 on the training reviews, all weights
python experiments/finetune.py lora_rank=8 steps=200        adapters, merged at the end: for a CPU
python experiments/finetune.py part=proxy                   a sentiment classifier; then: run.py reward=smollm2
"""

# isort: off
from suite.runtime.command import command, job  # first: the package says in one line what is not installed

# isort: on
import hydra
from omegaconf import DictConfig, OmegaConf

from suite.config.models import FinetuneConfig
from suite.config.registry import register
from suite.pretrain.finetune import finetune, read_splits
from suite.runtime.paths import shown_path


@hydra.main(config_path="../conf", config_name="finetune", version_base="1.3")
@job
def main(composed: DictConfig) -> None:
    """Train one part, or find that it is there, and tell what it measures."""
    config: FinetuneConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    config.check()
    trained = f"adapters of rank {config.lora_rank}" if config.lora_rank else "all weights"
    print(
        f"{config.part} from {config.policy.name}: {trained}, {config.steps} steps of {config.batch_size} x {config.context}"
    )
    folder, facts, reused = finetune(config, read_splits(config.task))
    print(f"{'made before' if reused else 'made'} in {facts['seconds']:.0f} s: {shown_path(str(folder))}")
    for name, before in facts["before"].items():
        print(f"  {name}: {before:.4g} before, {facts['after'][name]:.4g} after")
    flag = "policy=smollm2_imdb" if config.part == "policy" else "reward=smollm2"
    print(f"next     python experiments/run.py {flag}, or with {config.output}/{config.part} as its path")


if __name__ == "__main__":
    register()
    command(main)
