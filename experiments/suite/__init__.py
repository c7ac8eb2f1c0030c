"""Parts of the commands in `experiments/`: those that know Hydra, TRL, W&B, matplotlib and IMDB."""

import importlib.util
import sys

_NEEDED = ("accelerate", "datasets", "hydra", "matplotlib", "pyarrow", "safetensors", "scipy", "tabulate", "trl", "wandb")


def _missing() -> list[str]:
    """Needed packages that are not installed (a local folder of the same name is not an installed package)."""
    found = {name: importlib.util.find_spec(name) for name in _NEEDED}
    return [name for name, spec in found.items() if spec is None or spec.origin is None]


if _missing():
    print(f'not installed: {", ".join(_missing())}; run: pip install -e ".[suite]"', file=sys.stderr)
    raise SystemExit(2)
