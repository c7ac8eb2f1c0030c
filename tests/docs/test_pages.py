"""README, guides and the project's own pages: short, with links that lead somewhere, and one version everywhere."""

import re
import tomllib

import pytest
import yaml

import bon
from suite.runtime.paths import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = [*REPOSITORY.glob("*.md"), *sorted(DOCS.rglob("*.md"))]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 140
    table = README.partition("<!-- begin table")[2].partition("<!-- end table")[0]
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 2 + 6
    assert re.search("(?m)^pip install .* && pytest", README)  # the line that .ci/run runs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_and_every_named_page_is_there(page):
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))]
    assert [link for link in links if not (page.parent / link).exists()] == []
    named = re.findall(r"`((?:docs|conf|notebooks|tests|experiments|bon)/[\w./-]+\.(?:md|py|yaml|ipynb))`", text)
    targets = {"NAME.py", "NAME.yaml"}
    assert [name for name in named if not (REPOSITORY / name).exists() and name.rpartition("/")[2] not in targets] == []


def test_every_page_of_the_site_is_in_its_index():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = [page.relative_to(DOCS).with_suffix("") for page in PAGES if DOCS in page.parents and page.name != "index.md"]
    assert [str(page) for page in pages if str(page) not in index] == []


def test_one_version():
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert bon.__version__ == version
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    assert f"## [{version}]" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def test_issue_templates_are_forms():
    for file in (REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(file.read_text(encoding="utf-8"))
        if file.name != "config.yml":
            assert {"name", "description", "body"} <= form.keys()
