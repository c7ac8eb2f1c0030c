"""The wheel and the sdist: built without a network, whole, and importable on their own."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

pytest.importorskip("build", reason='needs pip install -e ".[dev]"')

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "bon").rglob("*.py"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sdist, wheel), the wheel from the sdist."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "bon", source / "bon", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PIP_NO_INDEX": "1"}, cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def test_the_wheel_holds_every_module_of_bon_and_nothing_else(built):
    _, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (file,) = (name for name in names if name.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(file))
    assert sorted(name for name in names if name.endswith(".py")) == MODULES
    assert "bon/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"bon", f"bon-{PROJECT['version']}.dist-info"}
    assert (metadata["Name"], metadata["Version"]) == (PROJECT["name"], PROJECT["version"])
    assert metadata["License-Expression"] == "Apache-2.0"
    assert sorted(metadata.get_all("Provides-Extra")) == sorted(PROJECT["optional-dependencies"])
    assert [name for name in names if name.endswith("/licenses/LICENSE")]


def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    sdist, _ = built
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*MODULES, "bon/py.typed", "pyproject.toml", "README.md", "LICENSE"} <= names


def test_every_module_imports_from_the_installed_wheel(built, tmp_path):
    _, wheel = built
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(tmp_path / "site"),
    ]
    subprocess.run([*install, str(wheel)], check=True)
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in MODULES]
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        f"import importlib; [importlib.import_module(name) for name in {modules!r}]\n"
        "import bon; print(bon.__version__, bon.__file__)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    version, place = done.stdout.split()
    assert version == PROJECT["version"]
    assert Path(place).is_relative_to(tmp_path)
