"""Windows over bytes: splits, targets, integrity, and errors that name a way out."""

import hashlib
import itertools
import json
import resource
import subprocess
import sys

import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.data import Text, shuffled
from jaxdl.data.files import find_files


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Two files whose bytes, in sorted order, are 0, 1, ... 999 modulo 251."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books").mkdir()
    content = (np.arange(1000) % 251).astype(np.uint8)
    (tmp_path / "books" / "b.txt").write_bytes(content[600:].tobytes())
    (tmp_path / "books" / "a.txt").write_bytes(content[:600].tobytes())
    return content


def data(**changes):
    return Text(**{"files": ("books/*.txt",), "seq": 10} | changes)


def tokens(source):
    return source.take(np.arange(len(source)))["tokens"]


def test_windows_overlap_by_the_one_token_that_shifts_targets(texts):
    source = data(valid_fraction=0, test_fraction=0).train()
    assert len(source) == 99 and source.sizes == {"tokens": 256}
    windows = tokens(source)
    assert windows.dtype == np.int32 and windows.shape == (99, 11)
    assert np.array_equal(windows[:, :-1].ravel(), texts[:990])
    assert np.array_equal(windows[:, 1:].ravel(), texts[1:991])
    assert np.array_equal(source[7]["tokens"], windows[7])
    assert source.spec["tokens"].shape == (11,) and source.spec["tokens"].dtype == np.int32
    for i in (-1, 99):
        with pytest.raises(IndexError):
            source[i]


@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.2), (0.033, 0.071), (0.3, 0.0), (0.0, 0.3)])
def test_splits_are_contiguous_tails_and_no_window_crosses(texts, valid, test):
    config = data(valid_fraction=valid, test_fraction=test)
    parts = [s for s in (config.train(), config.valid(), config.test()) if s is not None]
    assert len(parts) == 1 + (valid > 0) + (test > 0)
    assert [part.low for part in parts] == [0, *(part.high for part in parts[:-1])]
    assert parts[-1].high == 1000
    for part in parts:
        inside = np.lib.stride_tricks.sliding_window_view(texts[part.low : part.high], 11)[::10]
        assert np.array_equal(tokens(part), inside)


def test_windows_reach_across_any_number_of_files(texts, tmp_path):
    cuts = [0, 1, 2, 5, 40, 41, 42, 43, 600, 1000]
    for i, (low, high) in enumerate(itertools.pairwise(cuts)):
        (tmp_path / f"{i}.part").write_bytes(texts[low:high].tobytes())
    whole = data(files=("books/*.txt",), valid_fraction=0, test_fraction=0).train()
    split = data(files=("*.part",), valid_fraction=0, test_fraction=0).train()
    order = np.random.default_rng(0).permutation(len(whole))
    assert np.array_equal(split.take(order)["tokens"], whole.take(order)["tokens"])
    assert split.fingerprint == whole.fingerprint


def test_files_may_be_more_than_a_process_can_open(texts, tmp_path):
    for i in range(300):
        (tmp_path / f"{i:03}.part").write_bytes(texts[3 * i : 3 * i + 3].tobytes())
    source = data(files=("*.part",), valid_fraction=0, test_fraction=0).train()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        tokens = source.take(np.arange(len(source)))["tokens"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.array_equal(tokens[:, :-1].ravel(), texts[: len(source) * source.seq])


def test_patterns_count_from_the_data_folder_too(texts, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDL_DATA", str(tmp_path / "books"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(data(files=("*.txt",)).train()) == 89
    with pytest.raises(InputError, match=rf"looked in .*elsewhere.* data folder {tmp_path}/books"):
        data(files=("*.md",)).train()


MEASURE = """
import json, resource, sys, tracemalloc
import numpy as np
from jaxdl.data import Text, batches

def memory(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1e3 for line in status if line.startswith(field))

small = Text(files=("small.txt",), seq=128)
batches(small.train(), batch=16, seed=0)(0), small.train().fingerprint
# The high-water mark starts here: it counts what the files' pages take, too.
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmHWM"), memory("RssAnon")
tracemalloc.start()
source = Text(files=("big.txt",), seq=128).train()
get = batches(source, batch=16, seed=0)
source.fingerprint, [get(n) for n in range(4)]
peak = memory("VmHWM") - before[0]
sums = [int(get(n)["tokens"].sum()) for n in range(500)]
held = memory("RssAnon") - before[1]
print(json.dumps([peak, held, tracemalloc.get_traced_memory()[1] / 1e6, len(source), sums[7]]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_hundred_megabytes_are_never_held(tmp_path):
    rng = np.random.default_rng(0)
    with (tmp_path / "big.txt").open("wb") as big:
        for _ in range(100):
            big.write(rng.integers(0, 256, 10**6, np.uint8).tobytes())
    (tmp_path / "small.txt").write_bytes(bytes(range(256)) * 40)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    peak, held, traced, length, total = json.loads(done.stdout)
    assert max(peak, held, traced) < 20, (peak, held, traced)  # MB
    whole = np.fromfile(tmp_path / "big.txt", np.uint8)
    assert length == (90 * 10**6 - 1) // 128
    order = shuffled(length)(0, np.arange(7 * 16, 8 * 16))
    windows = np.lib.stride_tricks.sliding_window_view(whole, 129)[order * 128]
    assert total == windows.sum(dtype=int)


def test_an_edited_file_is_read_again_and_changes_the_fingerprint(texts, tmp_path):
    before = data().train().fingerprint
    assert before == data().train().fingerprint != data(seq=9).train().fingerprint
    path = tmp_path / "books" / "a.txt"
    path.write_bytes(b"!" + path.read_bytes())
    assert data().train().fingerprint != before


def test_a_truncated_or_changed_file_is_refused_with_both_digests_and_sizes(texts, tmp_path):
    digest = hashlib.sha256(texts).hexdigest()
    good = data(size=1000, sha256=digest)
    good.train()
    path = tmp_path / "books" / "b.txt"
    path.write_bytes(path.read_bytes()[:-1])
    found = hashlib.sha256(texts[:-1]).hexdigest()
    for config in (good, data(sha256=digest), data(size=1000)):
        with pytest.raises(InputError) as error:
            config.train()
        wanted = [found, "999 bytes", "books/b.txt 399"]
        wanted += [digest] if config.sha256 else []
        wanted += ["1,000 bytes"] if config.size else []
        assert all(w in str(error.value) for w in wanted)


def test_a_pattern_without_a_match_names_folder_and_neighbours(texts, tmp_path):
    for pattern, near in (
        ("books/c.txt", "b.txt"),
        ("boks/*.txt", "books/"),
        ("books/*.md", "a.txt"),
    ):
        with pytest.raises(InputError) as error:
            data(files=(pattern,)).train()
        message = str(error.value)
        assert repr(pattern) in message and str(tmp_path) in message and near in message
    with pytest.raises(InputError, match=r"is a folder.*'books/\*'"):
        find_files(["books"])
    with pytest.raises(InputError, match="at least one pattern"):
        find_files([])


def test_files_come_sorted_and_once(texts, tmp_path):
    found = find_files(["books/b*", "**/*.txt", str(tmp_path / "books" / "a.txt")])
    assert found == [tmp_path / "books" / "a.txt", tmp_path / "books" / "b.txt"]


def test_too_short_says_how_much_there_is_and_what_would_fit(texts):
    with pytest.raises(InputError, match=r"valid split .* 50 of 1,000 .*needs 101; .* is 49"):
        data(seq=100).valid()
    data(seq=49).valid()
    with pytest.raises(InputError, match="none fits"):
        data(test_fraction=0.001).test()


def test_an_empty_file_is_refused(texts, tmp_path):
    (tmp_path / "books" / "empty.txt").touch()
    with pytest.raises(InputError, match=r"books/empty.txt: empty"):
        data().train()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": "books/*.txt"}, "must be a tuple"),
        ({"seq": 0}, "seq=0"),
        ({"valid_fraction": 0.5, "test_fraction": 0.5}, "something to train on"),
        ({"test_fraction": -0.1}, "negative"),
    ],
)
def test_bad_fields_are_refused_at_once(changes, message):
    with pytest.raises(InputError, match=message):
        data(**changes)
