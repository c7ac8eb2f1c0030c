"""The dashboard of tracked runs.

python experiments/dashboard.py ENTITY/PROJECT             make or update the W&B workspace and report of a project
python experiments/dashboard.py ENTITY/PROJECT --dry-run   print both as JSON, change nothing, ask nobody
python experiments/dashboard.py --replay results/RUN       log from files what W&B does not have of a run
"""

# isort: off
from suite.runtime.command import fail  # first: the package says in one line what is not installed
from suite.runtime.paths import located

# isort: on
import argparse
import dataclasses
import importlib.util
import json
from pathlib import Path

from suite.config.run import TrackingConfig
from suite.runtime.errors import UserError


def main() -> None:
    """Read the command line, and do the one thing that it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", nargs="?", help="entity/project at W&B; of --replay: another one than the run's own")
    parser.add_argument("--dry-run", action="store_true", help="print the workspace and the report as JSON")
    parser.add_argument("--replay", metavar="FOLDER", help="a run's folder in results/")
    parser.add_argument(
        "--tracking", choices=["wandb", "trackio", "tensorboard"], help="of --replay (the run's own, or wandb)"
    )
    arguments = parser.parse_args()
    try:
        if arguments.replay:
            replay_run(Path(arguments.replay), arguments.project, arguments.tracking)
        elif arguments.project:
            dashboard(arguments.project, arguments.dry_run)
        else:
            parser.error("entity/project, or --replay FOLDER")
    except UserError as error:
        fail(str(error))


def dashboard(project: str, dry_run: bool) -> None:
    """Show or save the dashboard of a project."""
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError('wandb-workspaces is not installed; run: pip install -e ".[tracking]"')
    from suite.tracking.wandb_dashboard import as_json
    from suite.tracking.wandb_dashboard_save import parse_project, save

    entity, name = parse_project(project)
    print(json.dumps(as_json(entity, name), indent=1) if dry_run else "\n".join(save(entity, name)))


def replay_run(folder: Path, project: str | None, tracking: str | None) -> None:
    """Log what is missing of a run."""
    from suite.tracking.jobs import read_config
    from suite.tracking.tracker import open_backend, replay
    from suite.tracking.wandb_dashboard_save import parse_project

    folder = folder if folder.is_dir() else located(folder)
    config = TrackingConfig(**read_config(folder)["tracking"])
    name = tracking or (config.name if config.name != "none" else "wandb")
    entity, of_project = parse_project(project) if project else (config.entity, config.project)
    config = dataclasses.replace(config, name=name, entity=entity, project=of_project)
    backend = open_backend(config, folder)
    if backend is None:
        raise UserError("WANDB_MODE=disabled switches W&B off: unset it")
    for method, (now, entries) in replay(backend, folder).items():
        print(f"{method}: {now} of {entries} entries logged, {entries - now} were there")
    print(backend.told())


if __name__ == "__main__":
    main()
