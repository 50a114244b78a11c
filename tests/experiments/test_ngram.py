"""The counting baseline: a distribution, the one of the paper, and its number on Shakespeare."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_experiment, load_file

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "language"
ngram = load_file(FOLDER / "ngram.py")
RNG = np.random.default_rng(0)
# Letters that often repeat what came two before, the first of the alphabet most often.
LETTERS = 97 + RNG.geometric(0.25, 3000)
TRAIN = np.where(np.arange(3000) % 3, LETTERS, np.roll(LETTERS, 2)).astype(np.uint8)


def nats(text, order):
    text = np.frombuffer(text, np.uint8)
    return ngram.nats_per_byte(TRAIN, text, len(text) - 1, [order])[order]


@pytest.mark.parametrize("order", [1, 3, 8])
@pytest.mark.parametrize("context", [b"bcbdebb", b"ZZbbbcb", b"ZZZZZZZ"])
def test_probabilities_add_to_one(context, order):
    total = sum(np.exp(-nats(context + bytes([byte]), order)) for byte in range(256))
    assert total == pytest.approx(1, abs=1e-9)


def kneser_ney(gram, order):
    """p(last | the others) by the recursion of Chen and Goodman, with no table kept."""
    if not gram:
        return 1 / 256
    n, text = len(gram), TRAIN.tobytes()
    counts = Counter(text[i : i + n] for i in range(len(text) - n + 1))
    if n < order:
        longer = {text[i : i + n + 1] for i in range(len(text) - n)}
        counts = Counter(one[1:] for one in longer)
    many = Counter(counts.values())
    share = many[1] / (many[1] + 2 * many[2])
    taken = [0, *(k - share * (k + 1) * many[k + 1] / many[k] for k in (1, 2, 3))]
    same = {g: c for g, c in counts.items() if g[:-1] == gram[:-1]}
    lower = kneser_ney(gram[1:], order)
    if not same:
        return lower
    back = sum(taken[min(c, 3)] for c in same.values())
    own = counts[gram] - taken[min(counts[gram], 3)]
    return (own + back * lower) / sum(same.values())


@pytest.mark.parametrize("gram", [b"bbb", b"bcb", b"cbd", b"hgb", b"ZZb", b"ZZZ"])
def test_it_is_modified_kneser_ney(gram):
    assert np.exp(-nats(b"ab" + gram, 3)) == pytest.approx(kneser_ney(gram, 3), rel=1e-9)


@pytest.mark.slow
def test_counting_on_shakespeare(monkeypatch):
    from jaxdl.data.fetch import get

    monkeypatch.setenv("JAXDL_DATA", str(FOLDER.parents[1] / "build" / "data"))
    try:
        get("shakespeare")
    except InputError as error:
        pytest.skip(str(error))
    data = load_experiment(str(FOLDER / "shakespeare.py"))[0].data
    found = ngram.baseline(data)
    order = min(found["valid"], key=found["valid"].get)
    assert found["test"][order] == pytest.approx(1.443, abs=0.002)
