"""Rebuild the embedded models: tokenizer, policy, proxy reward and gold reward, from IMDB alone.

python experiments/pretrain.py                 # all of them
python experiments/pretrain.py parts=[proxy]   # one of them
"""

import hydra
from omegaconf import DictConfig, OmegaConf

from suite import imdb, pretraining
from suite.schema import PretrainConfig, register


@hydra.main(config_path="../conf", config_name="pretrain", version_base="1.3")
def main(config: DictConfig) -> None:
    """Train each of `parts` in turn."""
    settings: PretrainConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    splits = imdb.split_reviews(imdb.read_wheel())
    for part in settings.parts:
        pretraining.PARTS[part](settings, splits)


if __name__ == "__main__":
    register()
    main()
