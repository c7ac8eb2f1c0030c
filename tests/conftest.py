"""One thread per process, so that equal means equal to the last bit; and the marker of every test.

`unit` is what is left: tests that train nothing, start no process and open no browser. A folder, a module or a fixture makes a
test `integration` or `browser`; only `slow` is written on a test.
"""

import os

import pytest
import torch

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
torch.set_num_threads(1)

#: Folders of tests/ that train, compile, or run whole commands.
FOLDERS = {
    "bon/generation/fast",
    *(f"experiments/{name}" for name in ("baselines", "benchmark", "comparison", "models", "pools", "pretrain", "reports")),
    *(f"experiments/{name}" for name in ("studies", "tracking")),
}
#: Fixtures behind which models are built or trained, reviews are read, whole studies are made, processes and servers started.
FIXTURES = {"build_model", "compose_config", "copy", "folders", "models", "raw_reviews", "s3_bucket", "start"}
#: Modules that start processes say so by what they import.
IMPORTS = {"multiprocessing", "subprocess"}


def pytest_collection_modifyitems(items):
    """Give every test its marker."""
    for item in items:
        if not any(item.iter_markers("slow")):
            item.add_marker(marker_of(item))


def marker_of(item):
    """Return the marker of a test that is not slow."""
    if "browser" in getattr(item, "fixturenames", ()):
        return pytest.mark.browser
    place = item.path.relative_to(item.config.rootpath / "tests").as_posix() if "tests" in item.path.parts else ""
    heavy = (
        any(place.startswith(f"{folder}/") for folder in FOLDERS)
        or not FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
        or not IMPORTS.isdisjoint(vars(getattr(item, "module", None) or object))
    )
    return pytest.mark.integration if heavy else pytest.mark.unit
