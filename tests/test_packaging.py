"""What is shipped, and that it needs no more than it says."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from patchd import __version__

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("client", "policies", "models", "daemon")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {canonical(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def imported_names(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_every_import_of_the_package_is_a_declared_dependency():
    extras = PROJECT["project"]["optional-dependencies"]
    runtime = declared(PROJECT["project"]["dependencies"]).union(
        *(declared(extra) for name, extra in extras.items() if name != "dev")
    )
    distributions = packages_distributions()
    missing = {}
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for name in imported_names(file) - set(sys.stdlib_module_names) - {"patchd"}:
                if not {canonical(one) for one in distributions.get(name, [name])} & runtime:
                    missing[str(file.relative_to(ROOT))] = name
    assert missing == {}


def test_every_declared_dependency_is_pinned():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonical(line.partition("==")[0]) for line in pins if not line.startswith("#")}
    project = PROJECT["project"]
    wanted = declared(project["dependencies"]).union(*map(declared, project["optional-dependencies"].values()))
    assert wanted <= pinned


def test_every_dependency_is_explained():
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").lower()
    for name in declared(PROJECT["project"]["dependencies"]) | declared(
        PROJECT["project"]["optional-dependencies"]["dev"]
    ):
        short = re.sub(r"^efficientnet-(lite\d)-.*", r"\1", name)
        assert short in text, f"docs/dependencies.md does not say what {name} is for"


def test_every_package_is_listed_for_the_build():
    folders = {file.parent for package in PACKAGES for file in (ROOT / package).rglob("__init__.py")}
    found = {"patchd"} | {".".join(("patchd", *folder.relative_to(ROOT).parts)) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that nothing is left in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE", "__init__.py", "py.typed"):
        shutil.copy(ROOT / name, source / name)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel):
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*")]
    kept = [file for file in files if file.is_file() and "__pycache__" not in file.parts]
    wanted = {f"patchd/{file.relative_to(ROOT)}" for file in kept} | {"patchd/__init__.py", "patchd/py.typed"}
    assert held == wanted


def test_the_wheel_carries_version_licence_and_commands(wheel):
    metadata = {name.rpartition("/")[2]: wheel.read(name).decode() for name in wheel.namelist() if "dist-info" in name}
    assert f"\nVersion: {__version__}\n" in metadata["METADATA"]
    assert "Apache License" in metadata["LICENSE"]
    assert {"patchd", "patchctl"} <= {line.partition(" ")[0] for line in metadata["entry_points.txt"].splitlines()}


@pytest.mark.parametrize("command", ["patchd", "patchctl"])
def test_the_installed_commands_tell_their_version(command):
    program = Path(sys.executable).parent / command
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert __version__ in done.stdout


def test_the_changelog_knows_this_version():
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_links_in_the_documents_lead_somewhere():
    broken = []
    for document in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" not in target and not (document.parent / target.partition("#")[0]).exists():
                broken.append(f"{document.name}: {target}")
    assert broken == []


def test_make_help_lists_every_target():
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[1].split()
    assert re.findall(r"^make (\S+)", done.stdout, flags=re.MULTILINE) == targets


def test_the_demo_predicts_a_digit_that_training_never_sees(monkeypatch, tmp_path):
    from patchd.models.datasets import open_data

    monkeypatch.syspath_prepend(str(ROOT / "demo"))
    spec = importlib.util.spec_from_file_location("patchd_demo", ROOT / "demo" / "demo.py")
    assert spec is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    file = demo.write_digit(tmp_path / "digit.png")
    from PIL import Image

    with Image.open(file) as image:
        drawn = image.convert("RGB").tobytes()
    held_out = {sample.name: sample for sample in open_data("sklearn:digits").test}
    sample = held_out[f"digit {demo.HELD_OUT_DIGIT}"]
    assert sample.load(8).tobytes() == drawn
    assert sample.label == 7
