"""From text files to tokens that lie on disk: bytes as they are, or GPT-2's byte pairs."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.core.errors import InputError
from jaxdl.data.files import Mapped, data_folder, digest_of, find_files

log = logging.getLogger("jaxdl")
PIECE = 2**16
"""Bytes of text tokenised at once; an encoding takes about a hundred times as much memory."""
END = "<|endoftext|>"
"""GPT-2's mark between documents: one token, wherever the text holds it."""


@dataclass(frozen=True)
class Bytes:
    """One token per byte: 256, and nothing to learn or to load."""

    @property
    def size(self) -> int:
        """256."""
        return 256

    def of_files(self, paths: Sequence[Path]) -> Mapped:
        """The files' bytes, uint8."""
        return Mapped(paths)

    def encode(self, text: str) -> np.ndarray:
        """The UTF-8 bytes of `text`: [n] int32."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of bytes [n]; what is no whole character becomes U+FFFD."""
        return np.asarray(tokens).astype(np.uint8).tobytes().decode(errors="replace")


@dataclass(frozen=True)
class BytePairs:
    """GPT-2's byte pairs, of the two files that `jaxdl data get gpt2_bpe` fetches: 50,257 tokens.

    `vocab` (JSON, token -> number) and `merges` (one pair a line) are found as data files are. Text
    files are tokenised once, into the folder `tokens` of the data folder, under a name made of
    their and the vocabulary's content.

    Raises: InputError for a missing `tokenizers` package, missing or broken vocabulary files, and
    text that is not UTF-8.
    Source: Radford et al. 2019, section 2.2; Sennrich et al. 2016, arXiv:1508.07909.
    """

    vocab: str = "gpt2_bpe/encoder.json"
    merges: str = "gpt2_bpe/vocab.bpe"

    @property
    def size(self) -> int:
        """The number of entries of the vocabulary."""
        return self._tokenizer().get_vocab_size()

    def of_files(self, paths: Sequence[Path]) -> Mapped:
        """The files' tokens, tokenised now if they never were: uint16, or uint32 where they must.

        Needs memory for a few pieces of 64 kB, or for the longest stretch without a space.
        """
        dtype = np.dtype(np.uint16 if self.size <= 2**16 else np.uint32)
        content = f"{digest_of(paths)} {digest_of(self._files())}"
        key = hashlib.sha256(content.encode()).hexdigest()[:32]
        path = data_folder() / "tokens" / f"{key}.{dtype.name}"
        if not path.exists():
            log.info("tokenising %s, once, into %s", _listed(paths), path)
            self._write(paths, path, dtype)
        return Mapped([path], dtype)

    def encode(self, text: str) -> np.ndarray:
        """`text` as tokens [n] int32."""
        return np.array(self._tokenizer().encode(text).ids, np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of tokens [n]; what is no whole character becomes U+FFFD."""
        return self._tokenizer().decode(np.asarray(tokens).tolist(), skip_special_tokens=False)

    def _files(self) -> list[Path]:
        try:
            return [find_files([name])[0] for name in (self.vocab, self.merges)]
        except InputError as error:
            raise InputError(f"{error} `jaxdl data get gpt2_bpe` fetches GPT-2's.") from None

    def _tokenizer(self) -> Any:
        vocab, merges = self._files()
        return _load(vocab, merges, digest_of([vocab, merges]))

    def _write(self, paths: Sequence[Path], path: Path, dtype: np.dtype) -> None:
        """Writes the tokens to a file of another name first: `path` is whole or not there."""
        tokenizer, unfinished = self._tokenizer(), path.with_suffix(f".{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                for piece in pieces(paths):
                    file.write(np.array(tokenizer.encode(piece).ids, dtype).tobytes())
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                unfinished.unlink()


def pieces(paths: Sequence[Path], size: int = PIECE) -> Iterator[str]:
    """The text of UTF-8 files, one after the other, cut where no byte pair can reach across.

    GPT-2 splits text into words before it pairs bytes; none of its words goes on from something
    visible to a space or a line break, nor looks further back.

    Raises: InputError for bytes that are not UTF-8, with their place.
    """
    text = ""
    for new in _decoded(paths, size):
        low, text = len(text), text + new
        if cut := _last_cut(text, low):
            yield text[:cut]
            text = text[cut:]
    if text:
        yield text


def _last_cut(text: str, low: int) -> int:
    """The last index from `low` on where a space or line break follows something visible; or 0."""
    for i in range(len(text) - 1, max(low, 1) - 1, -1):
        if text[i] in " \n" and not text[i - 1].isspace():
            return i
    return 0


def _decoded(paths: Sequence[Path], size: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(size):
                place = file.tell() - len(chunk) - len(decoder.getstate()[0])
                try:
                    yield decoder.decode(chunk)
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{path} is not UTF-8 at byte {max(place + error.start, 0):,}; convert it, "
                        "or read it with tokens=Bytes()."
                    ) from None
    if decoder.getstate()[0]:
        raise InputError(f"{paths[-1]} ends inside a UTF-8 character; it was cut short.")


@lru_cache(maxsize=4)
def _load(vocab: Path, merges: Path, digest: str) -> Any:
    """The tokeniser; `digest` in the key notices files that change."""
    del digest
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    except ImportError:
        raise InputError(
            "BytePairs needs the package tokenizers: pip install 'jaxdl[text]'; "
            "tokens=Bytes() needs nothing."
        ) from None
    try:
        table, lines = models.BPE.read_file(str(vocab), str(merges))
        tokenizer = Tokenizer(models.BPE(table, lines))
    except Exception as error:  # the library raises no narrower one
        raise InputError(f"{vocab} and {merges} are no byte-pair vocabulary: {error}") from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if END in table:
        tokenizer.add_special_tokens([END])
    return tokenizer


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:3])) + f" and {len(paths) - 3} more" * (len(paths) > 3)
