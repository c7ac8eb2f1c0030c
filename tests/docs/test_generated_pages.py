"""README.md, the generated pages and the tables: never stale, written from results, refused where something is missing."""

import re
import shutil

import pytest
import study_folders

from suite.figures.studies import figures_of, loaded
from suite.metrics.results import Results
from suite.metrics.rows import Row, read_rows, select, write_rows
from suite.metrics.series import tuned_methods
from suite.metrics.training_budget import training_budget
from suite.reports import pages, paper_tables, readme
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY


def test_the_committed_pages_are_what_results_say():
    names = [str(file.relative_to(REPOSITORY)) for file in readme.stale()]
    assert names == [], "stale: run `python experiments/reproduce.py`"


@pytest.fixture
def copy(tmp_path):
    """The README, its results and nothing else."""
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    for name in ("metrics.csv", "findings.json", "manifest.json", "candidates.parquet"):
        (tmp_path / "results" / "headline").mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "results" / "headline" / name, tmp_path / "results" / "headline")
    (tmp_path / "results" / "benchmark").mkdir()
    shutil.copy(REPOSITORY / "results" / "benchmark" / "speed.csv", tmp_path / "results" / "benchmark")
    return tmp_path / "README.md"


def test_another_number_makes_the_pages_stale_and_is_written(copy):
    readme.update(copy)
    assert readme.stale(copy) == {}
    file = copy.parent / "results" / "headline" / "metrics.csv"
    rows = read_rows(file)
    index = next(i for i, r in enumerate(rows) if (r.method, r.n, r.metric) == ("best_of_n", 8, "gold"))
    rows[index] = Row("best_of_n", 0, None, 8, "gold", 7.25, 7.0, 7.5)
    write_rows(rows, file)
    before = copy.read_text(encoding="utf-8")
    assert {path.name for path in readme.stale(copy)} == {"README.md", "findings.md", "table.md", "table.tex"}
    readme.update(copy)
    after = copy.read_text(encoding="utf-8")
    assert before.count("7.25 [7.00, 7.50]") == 0
    assert after.count("7.25 [7.00, 7.50]") == 1  # the first finding
    page = (copy.parent / "docs" / "results" / "findings.md").read_text(encoding="utf-8")
    assert page.count("7.25 [7.00, 7.50]") == 2  # and the caption
    assert "7.25<br>[7.00, 7.50]" in after
    outside = re.compile(r"<!-- begin .*?<!-- end \w+ -->", re.DOTALL)
    assert outside.sub("", before) == outside.sub("", after)


def test_the_frontier_takes_the_headline_as_soon_as_it_is_there(copy, frontier):
    shutil.copytree(frontier, copy.parent / "results" / "frontier")
    readme.update(copy)
    page = copy.read_text(encoding="utf-8")
    assert "results/frontier/figures/reward_vs_n.png" in page
    assert "![Reward against n](results/headline" not in page
    findings = (copy.parent / "docs" / "results" / "findings.md").read_text(encoding="utf-8")
    assert "training seeds (PPO 3" in " ".join(findings.split())
    assert "41,000 [35,000, 60,000] requests" in " ".join(page.split())
    (gold,) = select(Results.load("frontier", frontier).rows, method="ppo", metric="gold", n=1, step=16, setting="kl_coef=0.1")
    assert page.count(f"{gold.value:.2f}<br>[{gold.ci_low:.2f}, {gold.ci_high:.2f}]") == 1
    figures = (copy.parent / "docs" / "results" / "figures.md").read_text(encoding="utf-8")
    for name in ("reward_vs_n", "reward_vs_kl", "equal_kl", "cost", "quality", "reward_distribution"):
        assert f"../../results/frontier/figures/{name}.png" in figures
    assert "python experiments/reproduce.py studies=[frontier]" in figures


def test_a_block_that_is_missing_is_named(copy):
    page = copy.read_text(encoding="utf-8")
    copy.write_text(page.replace("<!-- end findings -->", ""), encoding="utf-8")
    with pytest.raises(UserError, match=r"<!-- begin findings -->.*is there 0 times, not once"):
        readme.update(copy)
    assert "<!-- end findings -->" not in copy.read_text(encoding="utf-8")  # nothing was written


@pytest.mark.parametrize(
    ("updates", "told"),
    [
        (16, "Not a comparison. PPO drew 1,024 responses per training (16 updates of 64)"),
        (32, "Not a verdict. PPO drew 2,048 responses per training (32 updates of 64)"),
        (384, None),
    ],
)
def test_the_training_budget_stands_beside_the_findings(copy, updates, told):
    config = copy.parent / "results" / "headline" / "config.yaml"
    config.write_text(f"baseline: {{name: ppo, updates: {updates}, batch_size: 64}}\n", encoding="utf-8")
    readme.update(copy)
    pages = [copy, copy.parent / "docs" / "results" / "findings.md"]
    for page in (" ".join(file.read_text(encoding="utf-8").replace("\n> ", " ").split()) for file in pages):
        assert (told or "responses per training") in page or told is None
        assert ("Not a " in page) == (told is not None)


def test_policies_with_too_few_responses_are_left_out(tmp_path):
    folder = study_folders.frontier(tmp_path / "smollm2", prompts=12, candidates=16)
    assert tuned_methods(loaded("smollm2", folder).rows)
    (folder / "config.yaml").write_text(
        "study: {updates: 24}\nrun: {baseline: {name: ppo, updates: 48, batch_size: 32}}\n", encoding="utf-8"
    )
    assert training_budget(folder).responses == 24 * 32
    results = loaded("smollm2", folder)
    assert {row.method for row in results.rows} - {"optimum"} == {"base", "best_of_n"}
    assert sorted(figures_of("smollm2", results)) == ["quality", "reward_distribution", "reward_vs_n"]
    for figure in figures_of("smollm2", results).values():
        assert "PPO" not in figure.caption(results)
    page = pages.figures_page(tmp_path)
    assert "Not a comparison. PPO drew 768 responses" in page
    assert "equal_kl" not in page


def test_nothing_is_known_of_a_budget_where_nothing_was_trained(tmp_path):
    assert training_budget(tmp_path) is None
    (tmp_path / "config.yaml").write_text("baseline: {name: none, updates: 32, batch_size: 64}\n", encoding="utf-8")
    assert training_budget(tmp_path) is None


def test_without_results(tmp_path):
    (tmp_path / "README.md").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"none of frontier, headline; `python experiments/reproduce.py --from-scratch"):
        readme.update(tmp_path / "README.md")


def rows_of_two():
    at = {"seed": None, "step": None}
    return [
        Row("base", n=1, metric="gold", value=-0.001, ci_low=-0.5, ci_high=0.25, **at),
        Row("best_of_n", n=4, metric="gold", value=-1.234, ci_low=-2.0, ci_high=-0.5, **at),
        Row("best_of_n", n=4, metric="kl", value=0.636, ci_low=0.636, ci_high=0.636, kl_kind="bound", **at),
        Row("best_of_n", n=4, metric="tokens_per_request", value=1234.4, ci_low=1200.0, ci_high=1300.0, **at),
        Row("ppo", None, 8, 1, "kl", 3.0, 2.0, 4.0, "rao_blackwell", "kl_coef=0.1"),
        Row("ppo", None, 8, 1, "kl", 9.0, 8.0, 9.5, "monte_carlo", "kl_coef=0.1"),
    ]


def test_shares_of_the_optimum_have_a_column_where_there_are_any():
    of_ppo = ("ppo", None, 8, 1)
    more = [
        *rows_of_two(),
        Row(*of_ppo, "share_of_optimum_at_most", 0.512, 0.45, 0.58, None, "kl_coef=0.1"),
        Row("best_of_n", None, None, 2, "share_of_optimum", 0.8, 0.7, 0.9),
        Row("best_of_n", None, None, 2, "beta", 0.5),
    ]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in paper_tables.markdown(more).splitlines()]
    assert lines[0] == [*paper_tables.COLUMNS[:5], "share of optimum", *paper_tables.COLUMNS[5:]]
    assert [line[1] for line in lines[3:5]] == ["n = 2", "n = 4"]
    assert [line[5] for line in lines[2:]] == ["–", "80%<br>[70%, 90%]", "–", "≤ 51%<br>[45%, 58%]"]
    assert r"$\le$ 51\%" in paper_tables.latex(more)
    assert r"{\scriptsize [45\%, 58\%]}" in paper_tables.latex(more)


def test_markdown():
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in paper_tables.markdown(rows_of_two()).splitlines()
    ]
    assert lines[0] == list(paper_tables.COLUMNS)
    assert lines[2] == ["base policy", "", "0.00<br>[-0.50, 0.25]", "–", "0", "–", "–", "–"]
    assert lines[3] == ["best-of-n", "n = 4", "-1.23<br>[-2.00, -0.50]", "–", "≤ 0.64", "–", "–", "1,234<br>[1,200, 1,300]"]
    assert lines[4] == ["PPO", "0.1", "–", "–", "3.00<br>[2.00, 4.00]", "–", "–", "–"]
    assert len(lines) == 5
    fewer = paper_tables.markdown(rows_of_two(), 0, ("gold", "kl")).splitlines()
    assert [cell.strip() for cell in fewer[0].strip("|").split("|")] == ["method", "n or kl_coef", "gold reward", "KL (nats)"]
    assert len(fewer) == 4


def test_latex():
    lines = paper_tables.latex(rows_of_two()).splitlines()
    assert lines[0] == r"\begin{tabular}{llrrrrrr}"
    assert lines[1] == r"\toprule"
    assert r"n or kl\_coef" in lines[2]
    assert lines[6] == r"best-of-n & n = 4 & $-$1.23 & -- & $\le$ 0.64 & -- & -- & 1,234 \\"
    assert lines[7] == r" &  & {\scriptsize [$-$2.00, $-$0.50]} &  &  &  &  & {\scriptsize [1,200, 1,300]} \\"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    for line in lines[2:-2]:
        if line != r"\midrule":
            assert line.count("&") == len(paper_tables.COLUMNS) - 1
            assert not line.lstrip().startswith("[")


def test_what_latex_would_read_is_escaped():
    assert paper_tables.escaped(r"50% of a_b & {c} #1 $2 ~ ^ \x") == (
        r"50\% of a\_b \& \{c\} \#1 \$2 \textasciitilde{} \textasciicircum{} \textbackslash{}x"
    )


@pytest.fixture(scope="module")
def frontier(tmp_path_factory):
    return study_folders.frontier(tmp_path_factory.mktemp("made") / "frontier", prompts=12, candidates=16)
