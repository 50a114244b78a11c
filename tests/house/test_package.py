"""The package is what pyproject.toml says, and the wheel holds all of it."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = ("pyproject.toml", "jaxdl", "experiments", "kernels", "tests", "tpu", "README.md")
STACK = ("jax", "flax", "optax", "orbax-checkpoint", "chex", "tensorflow-datasets", "clu")

IMPORT_ALL = """
import importlib, pathlib, sys
site = pathlib.Path(sys.argv[1])
import jaxdl, jaxdl.kernels
OPTIONAL = {"keras", "torch", "lightning"}
WRAPPERS = OPTIONAL | {"torch_kernels"}
for path in sorted(site.glob("jaxdl/**/*.py")):
    parts = path.relative_to(site).with_suffix("").parts
    if parts[-1] != "__main__":
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        print(name)
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name in OPTIONAL and parts[-1] in WRAPPERS:
                continue
            raise
        assert pathlib.Path(module.__file__) == path, (module.__file__, path)
"""


def run(*command, **kwargs) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=240, **kwargs
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The wheel, built from a copy: setuptools would put a leftover build/ into it."""
    tmp = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp)
    for name in ("jaxdl", "kernels"):
        shutil.copytree(ROOT / name, tmp / name, ignore=shutil.ignore_patterns("__pycache__"))
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp / "dist", tmp)
    (wheel,) = (tmp / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp / "site")
    return tmp / "site"


def test_package_list_equals_the_folders():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [p.parent.relative_to(ROOT) for p in ROOT.glob("jaxdl/**/__init__.py")]
    folders += [p.parent.relative_to(ROOT) for p in ROOT.glob("kernels/**/__init__.py")]
    dotted = [".".join(folder.parts) for folder in folders]
    assert listed == sorted(f"jaxdl.{d}" if d.startswith("kernels") else d for d in dotted)


def test_every_folder_with_code_is_a_package():
    folders = {p.parent for top in ("jaxdl", "kernels") for p in (ROOT / top).rglob("*.py")}
    assert [str(f) for f in sorted(folders) if not (f / "__init__.py").exists()] == []


@pytest.mark.row("C-001")
def test_the_house_has_its_seven_parts():
    assert [name for name in TOP if not (ROOT / name).exists()] == []


@pytest.mark.row("C-001")
def test_every_module_of_the_wheel_imports(unpacked, tmp_path):
    env = os.environ | {"PYTHONPATH": str(unpacked)}
    modules = run("-c", IMPORT_ALL, unpacked, cwd=tmp_path, env=env).split()
    sources = [p for top in ("jaxdl", "kernels") for p in (ROOT / top).rglob("*.py")]
    assert len(modules) == len([p for p in sources if p.name != "__main__.py"])


def test_the_wheel_holds_the_sets_of_versions_that_doctor_reads(unpacked):
    names = {path.name for path in (ROOT / "jaxdl" / "constraints").iterdir()}
    assert names and {p.name for p in unpacked.glob("jaxdl/constraints/*.txt")} == names


def test_the_wheel_holds_the_tables_of_blocks(unpacked):
    tables = sorted(path.relative_to(ROOT) for path in ROOT.glob("kernels/*/blocks.json"))
    assert tables and all((unpacked / "jaxdl" / path).exists() for path in tables)


def test_the_wheel_holds_the_template_of_reports(unpacked):
    assert {p.name for p in unpacked.glob("jaxdl/report/page.*")} == {
        *("page.css", "page.html", "page.py")
    }


@pytest.mark.row("C-001")
def test_the_wheel_names_its_stack(unpacked):
    (metadata,) = unpacked.glob("jaxdl-*.dist-info/METADATA")
    needs = [line for line in metadata.read_text().splitlines() if line.startswith("Requires-Dist")]
    core = [line.split()[1].split("<")[0].split(">")[0] for line in needs if "extra ==" not in line]
    assert set(STACK) <= set(core)
