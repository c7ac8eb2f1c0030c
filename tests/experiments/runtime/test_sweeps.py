"""Sweeps through submitit: what SLURM would be asked for, its local executor for real, folders that cannot collide."""

import os
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from suite.config.registry import register
from suite.metrics.rows import read_rows
from suite.runtime.command import command
from suite.runtime.paths import REPOSITORY, share_path

submitit = pytest.importorskip("submitit", reason='needs pip install -e ".[scale]"')
pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason='needs pip install -e ".[scale]"')


@pytest.fixture
def composed_launcher():
    """composed_launcher(*overrides) -> Hydra's own part of the configuration."""

    def composed(*overrides):
        register()
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            return compose("config", overrides=list(overrides), return_hydra_config=True).hydra

    return composed


def test_what_slurm_is_asked_for(composed_launcher, tmp_path, monkeypatch):
    """The submission file that submitit would hand to sbatch; a stand-in for srun makes it believe in SLURM."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    hydra = composed_launcher("hydra/launcher=slurm", "hydra.launcher.partition=short", "hydra.launcher.name=sweep")
    options = OmegaConf.to_container(hydra.launcher)
    assert options.pop("_target_").endswith("SlurmLauncher")
    del options["submitit_folder"]
    executor = submitit.AutoExecutor(folder=tmp_path, cluster="slurm", slurm_max_num_timeout=options.pop("max_num_timeout"))
    shared = {"timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name", "stderr_to_stdout"}
    executor.update_parameters(**{name if name in shared else f"slurm_{name}": value for name, value in options.items()})
    asked = executor._executor._make_submission_file_text("python job.py", "uid")
    for line in ("--partition=short", "--cpus-per-task=4", "--mem=8GB", "--time=120", "--job-name=sweep", "--signal=USR2@120"):
        assert f"#SBATCH {line}" in asked
    assert executor._executor.max_num_timeout == 3


def test_folders_of_two_sweeps_in_one_second_differ(composed_launcher, monkeypatch):
    folders = set()
    for _ in range(2):
        monkeypatch.delenv("BON_LAUNCH", raising=False)
        monkeypatch.setenv("PYTHONPATH", "")
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")
        command(lambda: None)
        hydra = composed_launcher("hydra/launcher=submitit_local")
        folders.add(hydra.sweep.dir)
        assert hydra.launcher.submitit_folder == f"{hydra.sweep.dir}/.submitit/%j"
    assert len(folders) == 2
    assert all(folder.startswith("cache/multirun/2") for folder in folders)


def test_jobs_find_the_suite(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["elsewhere", str(REPOSITORY)]))
    share_path()
    share_path()
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(REPOSITORY), str(REPOSITORY / "experiments"), "elsewhere"]


def test_the_local_executor_runs_a_sweep(models, tmp_path):
    """Two jobs in processes of their own, from another folder, without the suite on their path."""
    done = subprocess.run(
        [
            *(sys.executable, str(REPOSITORY / "experiments" / "run.py"), "-m", "hydra/launcher=submitit_local", "n=2,3"),
            *("experiment=smoke", "baseline=none", "num_prompts=4", "num_candidates=4", "resamples=100"),
            *(f"policy.path={models}/policy", f"reward.proxy.path={models}/proxy", f"reward.gold.path={models}/gold"),
            *(f"results={tmp_path}/results", f"cache={tmp_path}/cache", f"hydra.sweep.dir={tmp_path}/sweep"),
        ],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "results").iterdir())
    assert [run.name.split("-")[1] for run in runs] == ["n2", "n3"]
    assert all(read_rows(run / "metrics.csv") for run in runs)
    jobs = [path for path in (tmp_path / "sweep" / ".submitit").iterdir() if any(path.glob("*_result.pkl"))]
    assert len(jobs) == 2
