"""The notebooks: in step with their sources, their outputs those of today's code, and readable from a sweep's results."""

import csv
import json
import os
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
from notebook_outputs import differences

from bon import Candidates
from suite.reports import notebooks
from suite.reports.notebooks import NOTEBOOKS, execute, executed, sources, unexecuted
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY

for needed in ("jupytext", "nbval", "nbclient", "ipykernel"):
    pytest.importorskip(needed, reason=f'{needed} is not installed: pip install -e ".[suite,dev]"')
import nbformat  # noqa: E402

NAMES = ["01_quickstart", "02_reward_vs_n", "03_bon_or_ppo"]
#: Cells of the first that show sampled texts.
SAMPLED = ("cell-5", "cell-7")


def validated(notebook, cwd):
    """nbval on one notebook, in a process of its own: every output is compared with a new execution, images aside."""
    empty = cwd / "pytest.ini"
    empty.write_text("[pytest]\n")
    options = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=600", "-p", "no:cacheprovider", "-q", "-c", str(empty)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={notebook.parent}", str(notebook)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.fixture
def small(tmp_path):
    """A notebook of three cells, executed."""
    cells = ["from importlib.util import find_spec\n\nx = 20", "print(x + 1)\nprint(find_spec('bon').origin)", "x + 2"]
    (tmp_path / "00_small.py").write_text("".join(f"# %%\n{cell}\n\n" for cell in cells))
    execute(tmp_path / "00_small.py")
    return tmp_path / "00_small.ipynb"


def test_each_has_a_source_and_an_executed_file():
    assert [path.stem for path in sources()] == NAMES
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_in_step_with_its_source(name):
    made = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(made)
    source = unexecuted(NOTEBOOKS / f"{name}.py")
    assert [(cell.cell_type, cell.source) for cell in made.cells] == [(cell.cell_type, cell.source) for cell in source.cells]
    assert [cell.id for cell in made.cells] == [cell.id for cell in source.cells]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_was_executed_in_order_and_quietly(name):
    made = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    cells = [cell for cell in made.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for output in outputs(made) if output.output_type == "error" or output.get("name") == "stderr"]
    text = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    assert str(REPOSITORY) not in text


@pytest.mark.parametrize("name", NAMES[1:])
def test_outputs_are_those_of_a_new_execution(name, tmp_path):
    done = validated(NOTEBOOKS / f"{name}.ipynb", tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def quickstart():
    """The first notebook as it is committed, and executed again. It samples: another CPU rounds to some other tokens."""
    return nbformat.read(NOTEBOOKS / f"{NAMES[0]}.ipynb", as_version=4), executed(NOTEBOOKS / f"{NAMES[0]}.py")


def test_outputs_of_sampling_are_those_of_a_new_execution_but_for_some_tokens(quickstart):
    assert differences(*quickstart, sampled=SAMPLED) == []


def changed(notebook, old, new, count=1):
    """The notebook with this text in its outputs changed, so many times."""
    text = nbformat.writes(notebook)
    sources, outputs = json.loads(text), json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert old in outputs
    for cell, shown in zip(sources["cells"], json.loads(outputs.replace(old, new, count)), strict=True):
        if shown is not None:
            cell["outputs"] = shown
    return nbformat.reads(json.dumps(sources), as_version=4)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("2.75", "3.75", "cell-11"),  # a number by one
        ("-5.29", "5.29", "cell-3"),  # a sign
        ("mean score", "median score", "cell-13"),  # a word
        ("over 24 queries", "over 25 queries", "cell-9"),  # a count
        ("KL at most", "KL", "cell-11"),
        ("4.3 million", "5.3 million", "cell-1"),
    ],
)
def test_a_stale_quickstart_is_caught(quickstart, old, new, found):
    kept, _ = quickstart
    (difference,) = differences(changed(kept, old, new), kept, sampled=SAMPLED)
    assert difference.startswith(f"{found}, ")


def test_what_rounding_changes_is_let_through(quickstart):
    kept, _ = quickstart
    for old, new in (("2.75", "2.74"), ("0.87 ", "0.78 "), ("2.45", "2.55"), ("last rate", "last tape")):
        assert differences(changed(kept, old, new), kept, sampled=SAMPLED) == []
    assert differences(changed(kept, "last rate", "last tape"), kept) != []  # sampled texts are named
    every = changed(changed(kept, "last rate", "tape"), "humorous story", "tale")
    assert len(differences(every, kept, sampled=SAMPLED)) == 2  # more than a few rows
    fewer = nbformat.reads(nbformat.writes(kept), as_version=4)
    fewer.cells[11].outputs = []
    assert differences(fewer, kept, sampled=SAMPLED) == ["cell-11: outputs of other kinds"]


def test_a_stale_output_is_caught(small, tmp_path):
    assert validated(small, tmp_path).returncode == 0
    small.write_text(small.read_text().replace('"21\\n"', '"22\\n"'))
    done = validated(small, tmp_path)
    assert done.returncode == 1
    assert "1 failed, 2 passed" in done.stdout


def test_executing_twice_writes_the_same_file(small):
    once = small.read_bytes()
    execute(small.with_suffix(".py"))
    assert small.read_bytes() == once
    made = nbformat.read(small, as_version=4)
    assert outputs(made)[0].text == f"21\n{REPOSITORY / 'bon' / '__init__.py'}\n"  # this code, not another that is installed
    assert not list(small.parent.glob(".0*"))


def test_a_failing_cell_is_one_line_and_leaves_the_notebook_as_it_was(small):
    before = small.read_bytes()
    small.with_suffix(".py").write_text("# %%\nraise KeyError('lost')\n")
    with pytest.raises(UserError) as caught:
        execute(small.with_suffix(".py"))
    assert str(caught.value) == "00_small.py: a cell failed with KeyError: 'lost'"
    assert small.read_bytes() == before


def test_the_command_runs_the_notebooks_that_are_named(monkeypatch, capsys):
    run = []
    monkeypatch.setattr(notebooks, "execute", lambda source: run.append(source.stem) or source.with_suffix(".ipynb"))

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["notebooks.py", *arguments])
        runpy.run_path(str(REPOSITORY / "experiments" / "notebooks.py"), run_name="__main__")

    command()
    assert run == NAMES
    command("01", "03")
    assert run[3:] == [NAMES[0], NAMES[2]]
    with pytest.raises(SystemExit) as left:
        command("04")
    assert left.value.code == 2
    assert capsys.readouterr().err == f"error: notebook 04: there are {', '.join(NAMES)}\n"


@pytest.mark.parametrize("inside", [".", "notebooks"])
def test_the_story_is_told_from_a_sweep_where_there_is_one(tmp_path, monkeypatch, capsys, inside):
    """A sweep of one setting and two seeds, made from the single run: its layout differs, its numbers are the same."""
    run, sweep = REPOSITORY / "results" / "headline", tmp_path / "results" / "frontier"
    (sweep / "candidates").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    shutil.copytree(run / "figures", sweep / "figures")
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    swept = [{**row, "setting": "kl_coef=0.2" if row["method"].startswith("ppo") else ""} for row in rows]
    worse = [{**row, "value": "9"} for row in swept]  # of one seed: not what stands for all
    with (sweep / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(swept[0]))
        writer.writeheader()
        writer.writerows([*({**row, "seed": ""} for row in swept), *worse])
    found = json.loads((run / "findings.json").read_text())["compared"]["ppo"]
    (sweep / "findings.json").write_text(json.dumps({"compared": {"ppo kl_coef=0.2": found}}))
    shutil.copy(run / "candidates.parquet", sweep / "candidates" / "base.parquet")
    tuned = Candidates.load(run / "candidates_ppo.parquet")
    for seed, part in enumerate((np.arange(8), np.arange(8, 16))):
        taken = tuned.take(np.tile(part, (tuned.num_prompts, 1)))
        taken.save(sweep / "candidates" / f"ppo-kl_coef=0.2-seed{seed}.parquet")
    monkeypatch.chdir(tmp_path / inside)
    told = runpy.run_path(str(NOTEBOOKS / "03_bon_or_ppo.py"))
    assert told["folder"] == sweep
    assert told["agrees"]
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("PPO kl_coef=0.2  ")][:1]
    gold = max(
        (row for row in rows if (row["method"], row["metric"], row["n"]) == ("ppo", "gold", "1")), key=lambda r: int(r["step"])
    )
    assert f"{float(gold['value']):.2f} [{float(gold['ci_low']):.2f}, {float(gold['ci_high']):.2f}]" in line
    assert "9.00" not in printed
