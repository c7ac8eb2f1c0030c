"""Execute the notebooks again: `python experiments/notebooks.py`, or only some: `python experiments/notebooks.py 01 03`.

Their text and code stand in `notebooks/*.py`; this writes the `.ipynb` files beside them. Takes about a minute.
"""

# isort: off
from suite.runtime.errors import UserError
from suite.runtime.command import job  # first: the package says in one line what is not installed

# isort: on
import argparse

from suite.reports.notebooks import execute, sources


@job
def main(arguments: argparse.Namespace) -> None:
    """Run each, say where it is."""
    found = sources()
    for wanted in arguments.notebooks:
        if not any(source.name.startswith(wanted) for source in found):
            raise UserError(f"notebook {wanted}: there are {', '.join(source.stem for source in found)}")
    for source in found:
        if not arguments.notebooks or source.name.startswith(tuple(arguments.notebooks)):
            print(f"notebook {execute(source)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", help="how their names begin, for example 01; all unless given")
    main(parser.parse_args())
