"""Tokens on disk: cutting text into pieces changes none, and text comes back as it was."""

import logging
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from jaxdl.core import change, dump, load
from jaxdl.core.change import parse_edits
from jaxdl.core.errors import InputError
from jaxdl.data import BytePairs, Bytes, Text
from jaxdl.data import tokens as module
from jaxdl.data.tokens import END, pieces

ROOT = Path(__file__).resolve().parents[2]
VERSE = "It's the étude  that\tI'll  play, 1600 times --\n\n  'tis 。 done.\u00a0 Is it?\r\n"
AWKWARD = st.lists(
    st.sampled_from([*" \n\t\r\u00a0\u3000\u2028'sda1é。!-\x1c", "'ll", END, "    ", "\n\n\n\n"])
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A vocabulary of at most 500 byte pairs."""
    tokenizer = tokenizers.Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=500, initial_alphabet=sorted(ByteLevel.alphabet()), special_tokens=[END]
    )
    blanks = (" " * 8 + "\n" * 8) * 2  # pairs that would be lost by a cut between them
    tokenizer.train_from_iterator([VERSE.replace("é", "e"), blanks] * 3, trainer)
    folder = tmp_path_factory.mktemp("pairs")
    vocab, merges = tokenizer.model.save(str(folder))
    return BytePairs(vocab, merges)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder of its own, where texts may be written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAXDL_DATA", raising=False)

    def write(*texts):
        paths = [Path(f"{i}.txt") for i in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return paths

    return write


def read(mapped):
    return mapped.windows(np.array([0]), len(mapped))[0]


@hypothesis.given(AWKWARD, st.integers(1, 9), st.data())
def test_pieces_have_the_tokens_of_the_whole(pairs, tmp_path_factory, words, size, data):
    text = "".join(words)
    cut = data.draw(st.integers(0, len(text.encode())))
    folder = tmp_path_factory.mktemp("text")
    paths = [folder / "a", folder / "b"]
    paths[0].write_bytes(text.encode()[:cut])
    paths[1].write_bytes(text.encode()[cut:])
    found = list(pieces(paths, size))
    assert "".join(found) == text
    ids = [number for piece in found for number in pairs.encode(piece)]
    assert ids == pairs.encode(text).tolist()


def test_long_text_is_cut():
    path = Path(__file__)
    found = list(pieces([path], 256))
    assert len(found) > 10 and max(map(len, found)) < 600 and "".join(found) == path.read_text()


@hypothesis.given(st.text())
def test_text_survives(pairs, text):
    for tokens in (Bytes(), pairs):
        numbers = tokens.encode(text)
        assert numbers.dtype == np.int32 and (numbers < tokens.size).all()
        assert tokens.decode(numbers) == text


def test_files_are_tokenised_once(pairs, files, monkeypatch, caplog):
    paths = files(VERSE * 40, "x" + VERSE)
    monkeypatch.setattr(module, "PIECE", 100)
    caplog.set_level(logging.INFO, "jaxdl")
    found = pairs.of_files(paths)
    assert found.dtype == np.uint16
    assert np.array_equal(read(found), pairs.encode(VERSE * 40 + "x" + VERSE))
    assert [r.message.startswith("tokenising 0.txt, 1.txt, once, into") for r in caplog.records]
    (kept,) = Path("data/tokens").iterdir()
    monkeypatch.setattr(module, "pieces", None)
    assert pairs.of_files(paths).digest == found.digest
    Path("1.txt").write_text("y")
    with pytest.raises(TypeError):  # other content: it would be tokenised now
        pairs.of_files(paths)
    assert list(Path("data/tokens").iterdir()) == [kept], "nothing unfinished is left"


def test_windows_of_byte_pairs(pairs, files):
    files(VERSE * 40)
    config = Text(files=("0.txt",), tokens=pairs, seq=16)
    assert load(dump(config)) == config
    source, whole = config.test(), pairs.encode(VERSE * 40)
    assert source.sizes == {"tokens": pairs.size} and pairs.size < 501
    tail = whole[-int(len(whole) * 0.05) :]
    assert np.array_equal(source[1]["tokens"], tail[16:33])
    fingerprints = {config.train().fingerprint, source.fingerprint, config.valid().fingerprint}
    assert len(fingerprints | {Text(files=("0.txt",), seq=16).test().fingerprint}) == 4


def test_a_vocabulary_is_exchanged_by_name():
    config = Text(files=("a.txt",))
    edits = parse_edits(["tokens=jaxdl.data:BytePairs", "tokens.vocab=own.json"], config)
    assert change(config, edits).tokens == BytePairs(vocab="own.json")
    with pytest.raises(InputError, match=r"expected jaxdl.data:Bytes or jaxdl.data:BytePairs"):
        change(config, parse_edits(["tokens=gpt2"], config))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((b"abc \xff",), r"0.txt is not UTF-8 at byte 4; .*tokens=Bytes\(\)"),
        (("abcdefg é".encode()[:-1], b"x"), r"1.txt is not UTF-8 at byte 0"),
        (("é".encode()[:-1],), "ends inside"),
    ],
)
def test_what_is_not_utf_8_is_refused_with_its_place(pairs, files, monkeypatch, texts, message):
    monkeypatch.setattr(module, "PIECE", 2)
    with pytest.raises(InputError, match=message):
        pairs.of_files(files(*texts))
    assert not list(Path("data/tokens").iterdir())


def test_a_missing_vocabulary_or_package_says_what_to_do(pairs, files, monkeypatch):
    with pytest.raises(InputError, match="`jaxdl data get gpt2_bpe`"):
        BytePairs().encode("a")
    files("{}", "#version: 0.2\na b\n")
    with pytest.raises(InputError, match="no byte-pair vocabulary"):
        BytePairs("0.txt", "1.txt").encode("a")
    module._load.cache_clear()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"pip install 'jaxdl\[text\]'"):
        pairs.encode("a")


@pytest.fixture
def gpt2(monkeypatch):
    """GPT-2's vocabulary, fetched once."""
    from jaxdl.data.fetch import get, place

    monkeypatch.setenv("JAXDL_DATA", str(ROOT / "build" / "data"))
    try:
        get("gpt2_bpe")
    except InputError as error:
        pytest.skip(str(error))
    return place("gpt2_bpe")


@pytest.mark.slow
def test_gpt2_tokens_are_those_of_transformers(gpt2, files):
    transformers = pytest.importorskip("transformers")  # 5.23
    theirs = transformers.GPT2Tokenizer(str(gpt2 / "encoder.json"), str(gpt2 / "vocab.bpe"))
    sources = "\n".join(p.read_text() for p in sorted((ROOT / "jaxdl").rglob("*.py")))
    text = (VERSE * 3 + END + "Grüße, 世界! 🙂\n" + sources) * 2
    ours = BytePairs(str(gpt2 / "encoder.json"), str(gpt2 / "vocab.bpe"))
    assert ours.size == 50257
    assert read(ours.of_files(files(text))).tolist() == theirs(text)["input_ids"]
    assert ours.decode(ours.encode(text)) == text
