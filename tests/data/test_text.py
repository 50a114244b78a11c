"""Windows over bytes: splits, targets, integrity, and errors that name a way out."""

import hashlib

import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.data import TextBytes
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
    return TextBytes(**{"files": ("books/*.txt",), "seq": 10} | changes)


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
    assert np.array_equal(np.concatenate([part.text for part in parts]), texts)
    for part in parts:
        inside = np.lib.stride_tricks.sliding_window_view(part.text, 11)[::10]
        assert np.array_equal(tokens(part), inside)


def test_a_source_does_not_copy_the_text(texts):
    config = data()
    assert np.shares_memory(config.train().text.base, config.test().text.base)
    assert not config.train().text.flags.writeable


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
