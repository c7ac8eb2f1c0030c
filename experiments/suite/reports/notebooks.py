"""The notebooks: written as Python files, executed into `.ipynb` files whose outputs are committed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"


def sources(folder: Path = NOTEBOOKS) -> list[Path]:
    """The Python files that notebooks are made of."""
    return sorted(folder.glob("[0-9]*.py"))


def unexecuted(source: Path) -> Any:
    """The notebook of a Python file (jupytext's percent format), without outputs; the same file gives the same notebook."""
    jupytext = _jupytext()
    notebook = jupytext.read(source)
    for place, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{place}"  # random ones would change with every execution
    return notebook


def executed(source: Path) -> Any:
    """The notebook of a Python file with the outputs of a run in the file's folder by this interpreter; nothing is written.

    Raises:
        UserError: a cell failed, or what executes notebooks is not installed.
    """
    _jupytext()
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = unexecuted(source)
    # Streams are joined and no times recorded: two executions write the same file.
    client = NotebookClient(notebook, timeout=600, record_timing=False, coalesce_streams=True)
    client.resources = {"metadata": {"path": str(source.parent)}}
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    try:
        client.execute(env={**os.environ, "PYTHONPATH": paths})
    except CellExecutionError as error:
        raise UserError(f"{source.name}: a cell failed with {error.ename}: {error.evalue}") from None
    notebook.metadata["language_info"] = {"name": "python"}  # the version of Python is no part of the notebook
    return notebook


def execute(source: Path) -> Path:
    """Run a notebook and write it beside its source, whole or not at all.

    Raises:
        UserError: as `executed`.
    """
    notebook = executed(source)
    import nbformat

    path = source.with_suffix(".ipynb")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            nbformat.write(notebook, file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _jupytext() -> Any:
    try:
        import jupytext
        import nbclient  # noqa: F401 - asked for here, so that nothing runs without it
    except ModuleNotFoundError as error:
        raise UserError(f'notebooks need {error.name}: pip install -e ".[suite,dev]"') from None
    return jupytext
