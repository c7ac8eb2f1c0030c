"""Rebuild the embedded models: tokenizer, policy, proxy reward and gold reward, from IMDB.

python experiments/pretrain.py                 all of them
python experiments/pretrain.py parts=[proxy]   one of them

The rewards have teachers, which are made first; on one GPU both take seven minutes, on a CPU days:

python experiments/finetune.py part=gold seed=11 layers=30 steps=650 batch_size=128 context=128 learning_rate=5e-5
python experiments/finetune.py part=proxy seed=12 layers=30 steps=650 batch_size=128 context=128 learning_rate=5e-5

The policy takes about an hour on 2 cores.
"""

# isort: off
from suite.runtime.command import command, job  # first: the package says in one line what is not installed

# isort: on
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from suite.config.models import PretrainConfig
from suite.config.registry import register
from suite.data import imdb
from suite.pretrain import embedded_models
from suite.pretrain.held_out import measure
from suite.pretrain.model_card import write_card
from suite.runtime.hashing import CHECKSUMS, write_checksums


@hydra.main(config_path="../conf", config_name="pretrain", version_base="1.3")
@job
def main(composed: DictConfig) -> None:
    """Train each of `parts` in turn, measure all, write hashes and the card."""
    config: PretrainConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    splits = imdb.split_reviews(imdb.read_wheel())
    for part in config.parts:
        embedded_models.PARTS[part](config, splits)
    folder = Path(config.output)
    if all((folder / part / "model.safetensors").is_file() for part in embedded_models.PARTS):
        write_checksums(folder)
        found = measure(folder, splits["held_out"])
        write_card(config, found, (folder / CHECKSUMS).read_text())
        print("\n".join(f"{name}: {value:.4g}" for name, value in found.items()))


if __name__ == "__main__":
    register()
    command(main)
