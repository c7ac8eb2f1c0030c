"""What the report says is what the run's folder holds; what cannot be read is one line."""

import base64
import json
import re
import runpy
import sys
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from report_checks import HOSTILE, copied, hostile

from bon import Candidates
from suite.metrics.rows import read_rows, select
from suite.metrics.series import last_step
from suite.reports.html.comparison_table import comparison_table
from suite.reports.html.page import write_report
from suite.reports.html.prompt_browser import as_script, browser_data
from suite.reports.html.run_folder import read_run
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY


class Page(HTMLParser):
    """Elements by tag, as (attributes, text)."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for element in self.open:
            element[2].append(data)

    def of(self, tag):
        return [(attrs, " ".join("".join(text).split())) for name, attrs, text in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return copied(tmp_path_factory.mktemp("report") / "headline")


@pytest.fixture(scope="module")
def text(folder):
    return write_report(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_same_folder_gives_the_same_bytes(folder, text, tmp_path):
    assert write_report(folder).read_text(encoding="utf-8") == text
    again = copied(tmp_path / "elsewhere" / "headline")
    assert write_report(again).read_bytes() == (folder / "report.html").read_bytes()
    assert not list(folder.glob(".report*"))


def test_nothing_comes_from_elsewhere(page):
    sources = [attrs[name] for _, attrs, _ in page.elements for name in ("src", "href", "action") if name in attrs]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    (policy,) = [attrs["content"] for attrs, _ in page.of("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")


def test_the_table_holds_the_runs_numbers(page, folder):
    rows = read_rows(folder / "metrics.csv")
    cells = [text for _, text in page.of("td")]
    for method, n, metric, digits in (("best_of_n", 8, "gold", 2), ("base", 1, "distinct_2", 2), ("ppo", 1, "perplexity", 1)):
        (row,) = [row for row in select(rows, method=method, n=n, metric=metric) if row.step in (None, last_step(rows, "ppo"))]
        parts = [f"{part:.{digits}f}".replace("-", "−") for part in (row.value, row.ci_low, row.ci_high)]
        assert "{} {} to {}".format(*parts) in cells
    assert [text for attrs, text in page.of("th") if attrs["scope"] == "col"] == [
        "base policy",
        "best-of-8",
        "PPO",
        "PPO + best-of-8",
    ]


def test_a_bound_is_called_one_and_has_no_interval(folder):
    methods, lines = comparison_table(read_rows(folder / "metrics.csv"), 8)
    (kl,) = [dict(zip(methods, cells, strict=True)) for metric, cells in lines if metric.name == "kl"]
    assert (kl["best-of-8"].value, kl["best-of-8"].interval, kl["best-of-8"].note) == (
        f"{np.log(8) - 7 / 8:.2f}",
        "",
        "upper bound",
    )
    assert kl["PPO"].note == "measured"
    assert kl["PPO"].interval
    assert kl["base policy"].value == "0"


def test_findings_are_the_sentences_of_the_summary(page, folder):
    below = (folder / "summary.txt").read_text().partition("\n\n")[2]
    assert [text for attrs, text in page.of("li") if not attrs] == below.strip().splitlines()


def test_figures_are_those_of_the_folder_each_with_a_caption(page, folder):
    images = [attrs["src"] for attrs, _ in page.of("img")]
    assert {path.stem for path in (folder / "figures").iterdir()} == {path.stem for path in read_run(folder).figures}
    assert len(images) == len(page.of("figcaption")) == len(read_run(folder).figures) > 0
    decoded = [base64.b64decode(image.partition(",")[2]) for image in images]
    assert decoded == [path.read_bytes() for path in read_run(folder).figures]


def test_vector_figures_are_preferred(folder, tmp_path):
    other = copied(tmp_path / "headline")
    for path in (other / "figures").glob("*.svg"):
        path.unlink()
    (other / "figures" / "cost.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (other / "figures" / "quality.png").write_bytes((other / "figures" / "cost.png").read_bytes())
    names = ["reward_vs_n.png", "reward_vs_kl.png", "reward_distribution.png", "cost.svg", "quality.png"]
    assert [path.name for path in read_run(other).figures] == names
    assert "data:image/svg+xml;base64," in write_report(other).read_text()


def test_config_and_manifest_stand_at_the_end_in_full(page, folder):
    config, manifest = (" ".join((folder / name).read_text().split()) for name in ("config.yaml", "manifest.json"))
    assert [text for _, text in page.of("pre")] == [config, manifest]


def test_browser_shows_the_first_and_the_best_of_the_first_n(hand_pool):
    base = hand_pool([[1.0, 3.0, 2.0, 9.0], [4.0, 0.0, 1.0, 9.0]], [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]])
    tuned = hand_pool([[5.0], [6.0]], [[1.5], [1.6]])
    assert browser_data({"base": base, "ppo": tuned}, 3) == {
        "methods": ["base policy", "best-of-3", "PPO"],
        "prompts": [
            {
                "prompt": "prompt 0",
                "responses": [[" response 0.0", 1.0, 0.1], [" response 0.1", 3.0, 0.2], [" response 0.0", 5.0, 1.5]],
            },
            {
                "prompt": "prompt 1",
                "responses": [[" response 1.0", 4.0, 0.5], [" response 1.0", 4.0, 0.5], [" response 1.0", 6.0, 1.6]],
            },
        ],
    }
    assert browser_data({"base": base}, 1)["methods"] == ["base policy"]


def test_data_survives_as_json_without_markup():
    data = {"texts": list(HOSTILE)}
    script = as_script(data)
    assert json.loads(script) == data
    assert not set("<>&\u2028") & set(script)


def test_hostile_text_is_no_markup(tmp_path, folder, page):
    text = write_report(hostile(tmp_path / "<b>run")).read_text(encoding="utf-8")
    found = Page(text)
    tags = lambda parsed: {name for name, _, _ in parsed.elements}  # noqa: E731
    assert tags(found) - tags(page) == {"strong"}  # of the warnings
    assert len(found.of("script")) == len(page.of("script")) == 2
    assert not any(name.startswith("on") for _, attrs, _ in found.elements for name in attrs)
    for line in HOSTILE[:4]:
        assert any(line in unescape(shown) for _, shown in found.of("li"))
    assert "49" not in {shown for _, shown in found.of("li")}


def test_without_a_baseline_there_are_two_methods(tmp_path):
    folder = copied(tmp_path / "alone")
    rows = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(row for row in rows if not row.startswith("ppo")))
    (folder / "config.yaml").write_text(re.sub(r"(baseline:\n  name: )ppo", r"\1none", (folder / "config.yaml").read_text()))
    found = Page(write_report(folder).read_text(encoding="utf-8"))
    assert [text for _, text in found.of("h1")] == ["Best-of-8"]
    assert [text for attrs, text in found.of("th") if attrs["scope"] == "col"] == ["base policy", "best-of-8"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("candidates.parquet", None, "is not a whole run: candidates.parquet is missing"),
        ("candidates.parquet", "PAR1", "candidates.parquet is damaged"),
        ("candidates_ppo.parquet", None, "candidates_ppo.parquet is missing"),
        ("metrics.csv", None, "metrics.csv is missing"),
        ("metrics.csv", "method,seed,step,n,metric,value,ci_low,ci_high,kl_kind\n", "damaged (no rows in it)"),
        ("metrics.csv", "method,seed\nbase,0\n", "metrics.csv is damaged"),
        ("manifest.json", "{", "manifest.json is damaged"),
        ("manifest.json", "{}", "is of another version"),
        ("config.yaml", "n: [", "config.yaml is damaged"),
        ("config.yaml", "- 8", "damaged (no keys in it)"),
        ("config.yaml", "n: 65", "n=65 is not allowed: must lie in 1..64"),
        ("config.yaml", "n: 8", "is of another version"),
        ("summary.txt", "a table and nothing else", "damaged (no findings below its table)"),
    ],
)
def test_what_is_missing_or_damaged_is_one_line(tmp_path, name, content, told):
    folder = copied(tmp_path / "run")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError) as caught:
        write_report(folder)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "report.html").exists()


def test_pools_of_different_prompts_are_refused(tmp_path):
    folder = copied(tmp_path / "run")
    Candidates.load(folder / "candidates_ppo.parquet").rows(np.arange(9)).save(folder / "candidates_ppo.parquet")
    with pytest.raises(UserError, match="base and ppo answer different prompts"):
        write_report(folder)


def test_the_command(tmp_path, monkeypatch, capsys):
    def run(argument):
        monkeypatch.setattr(sys, "argv", ["report.py", argument])
        runpy.run_path(str(REPOSITORY / "experiments" / "report.py"), run_name="__main__")

    copied(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    run("mine")
    assert (tmp_path / "mine" / "report.html").is_file()
    assert capsys.readouterr() == ("report   mine/report.html\n", "")
    with pytest.raises(SystemExit) as left:
        run("results/nothing")
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert re.search("no such folder; runs in .*results: .*headline", said)
