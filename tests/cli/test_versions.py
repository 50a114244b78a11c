"""What doctor says of versions: each combination known to be bad is provoked with fake ones."""

import json
import sys

import pytest
from packaging.specifiers import SpecifierSet

from jaxdl.cli import versions

GOOD = next(known for known in versions.known_sets() if known.tested).versions
BAD = {
    "jaxlib of another version": ({"jaxlib": "0.10.1"}, "pip install jaxlib==0.10.2"),
    "CUDA plugin of another version": (
        {"jax-cuda13-plugin": "0.10.1"},
        "pip install jax-cuda13-plugin==0.10.2",
    ),
    "jax2onnx that caps orbax": ({"jax2onnx": "0.16.0"}, "pip install 'jax2onnx>=0.13,<0.14'"),
    "flax that is too new": ({"flax": "0.13.0"}, "pip install 'flax<0.13,>=0.12.8'"),
    "numpy that is too old": ({"numpy": "1.26.4"}, "pip install 'numpy<3,>=2.1'"),
    "clu that is too old": ({"clu": "0.0.9"}, "pip install 'clu<0.1,>=0.0.12'"),
}


@pytest.mark.parametrize(("change", "remedy"), BAD.values(), ids=BAD)
def test_a_bad_combination_is_told_with_what_to_install(change, remedy):
    (told,) = versions.conflicts(GOOD | change)
    assert remedy in told and all(f"{name} {v}" in told for name, v in change.items())


def test_every_known_conflict_is_provoked_above():
    provoked = {name for change, _ in BAD.values() for name in change}
    assert all(provoked & conflict.packages.keys() for conflict in versions.CONFLICTS)


def test_the_tested_set_passes_and_a_jax2onnx_without_the_cap_does_too():
    fine = {"jax2onnx": "0.13.1", "jax-cuda13-plugin": GOOD["jaxlib"]}
    assert versions.conflicts(GOOD | fine) == []
    assert versions.absent(GOOD) == []
    assert versions.tested(GOOD | {"torch": "2.13.0"}) == (True, "tested, python-3.11.txt")


def test_an_untested_set_names_the_nearest_and_what_differs():
    fine, told = versions.tested(GOOD | {"optax": "0.2.9"})
    assert not fine and "optax 0.2.8 (here 0.2.9)" in told and "python-3.11.txt" in told
    newer = GOOD | {"python": "3.12", "jax": "0.11.2", "jaxlib": "0.11.2"}
    assert versions.tested(newer) == (False, "not tested, python-3.12.txt")


def test_what_a_broken_or_shadowed_installation_left_is_no_version(tmp_path, monkeypatch):
    numpy = versions.installed()["numpy"]
    for name, told in (("broken", ""), ("numpy", "Name: numpy\nVersion: 1.0\n")):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\n{told}")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert versions.installed()["numpy"] == numpy


@pytest.mark.parametrize("known", versions.known_sets(), ids=lambda known: known.path.stem)
def test_every_pin_is_within_the_bounds_of_the_package(known):
    needs = {versions.canonical(need.name): need.specifier for need in versions._needs()}
    assert len(known.versions) > 9
    assert [k for k, v in known.versions.items() if v not in needs.get(k, SpecifierSet())] == []


def test_doctor_warns_of_an_untested_set_and_fails_on_a_conflict(jaxdl, place, monkeypatch):
    def doctor(change):
        monkeypatch.setattr(versions, "installed", lambda: GOOD | {"jaxdl": "0"} | change)
        told = jaxdl("doctor", "--json")
        return told.code, {line["check"]: line for line in map(json.loads, told.out.splitlines())}

    code, checks = doctor({"chex": "0.1.93"})
    assert code == 0 and checks["versions together"]["warning"] and "conflict" not in checks
    code, checks = doctor({"jaxlib": "0.10.1"})
    assert code == 1 and not checks["conflict"]["ok"]


def test_doctor_survives_a_flag_that_kills_whoever_reads_it(jaxdl, place, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag=1")
    told = jaxdl("doctor")
    assert told.code == 1 and "xla_no_such_flag" in told.out.replace("\n", " ")


def test_doctor_tells_a_folder_that_cannot_be_written(jaxdl, place, monkeypatch):
    monkeypatch.setenv("JAXDL_DATA", "/proc/none")
    told = jaxdl("doctor", "--json")
    checks = {line["check"]: line for line in map(json.loads, told.out.splitlines())}
    assert told.code == 1 and "$JAXDL_DATA" in checks["write data"]["told"]
    assert checks["write runs"]["ok"] and "GB free" in checks["write runs"]["told"]
