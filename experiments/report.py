"""Write a run as one HTML file: `python experiments/report.py results/headline` makes `results/headline/report.html`."""

# isort: off
from suite.runtime.command import job  # first: the package says in one line what is not installed
from suite.runtime.paths import located

# isort: on
import argparse
from pathlib import Path

from suite.reports.html.page import write_report


@job
def main(arguments: argparse.Namespace) -> None:
    """Read the run's folder, write the page, say where it is."""
    folder = Path(arguments.folder).expanduser()
    print(f"report   {write_report(folder if folder.is_dir() else located(folder))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="a run's folder, for example results/headline")
    main(parser.parse_args())
