"""What counting does on the same bytes: interpolated Kneser-Ney, the strongest plain n-gram model.

Run:    python experiments/language/ngram.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxdl.data import Text
from jaxdl.data.files import find_files

ORDERS = range(1, 9)  # a gram of 8 bytes fits a uint64


@dataclass(frozen=True)
class Table:
    """The grams of one order: sorted numbers whose last byte is what follows the others."""

    grams: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    """The distinct grams without their last byte."""
    totals: np.ndarray
    """The counts of each context, summed."""
    held_back: np.ndarray
    """What discounting takes from each context."""
    discounts: np.ndarray
    """What is taken from a gram counted 0, 1, 2, and 3 or more times."""


def nats_per_byte(train: np.ndarray, text: np.ndarray, low: int, orders: Sequence[int]) -> dict:
    """order -> mean of -log p of the bytes text[low:], each given up to order - 1 before it.

    Modified Kneser-Ney smoothing, interpolated down to the uniform distribution; an order counts
    bytes as a trigram counts three. Nothing is tuned but the order.

    Shapes: train [n], text [m] uint8.
    Source: Chen and Goodman 1999, section 2.7 and equations 23 to 26.
    """
    highest = {}
    for order in orders:
        probability = np.full(len(text) - low, 1 / 256)
        for n, table in enumerate(_tables(train, order), start=1):
            probability = _interpolate(table, _grams(text, n)[low - n + 1 :], probability)
        highest[order] = float(-np.log(probability).mean())
    return highest


def _tables(train: np.ndarray, order: int) -> list[Table]:
    """The tables of orders 1 to `order`; all but the highest count what grams follow, not how
    often."""
    grams, counts = np.unique(_grams(train, order), return_counts=True)
    tables = [_table(grams, counts)]
    for n in range(order - 1, 0, -1):
        grams, counts = np.unique(grams & np.uint64(2 ** (8 * n) - 1), return_counts=True)
        tables.append(_table(grams, counts))
    return tables[::-1]


def _table(grams: np.ndarray, counts: np.ndarray) -> Table:
    one, two, three, four = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    share = one / max(one + 2 * two, 1)
    ratios = np.array([two / max(one, 1), three / max(two, 1), four / max(three, 1)])
    estimates = np.arange(1, 4) - share * np.arange(2, 5) * ratios
    discounts = np.array([0, *np.maximum(estimates, 0.1)])  # 0 would make the unseen impossible
    contexts, first = np.unique(grams >> np.uint64(8), return_index=True)
    return Table(
        grams,
        counts,
        contexts,
        totals=np.add.reduceat(counts, first),
        held_back=np.add.reduceat(discounts[np.minimum(counts, 3)], first),
        discounts=discounts,
    )


def _interpolate(table: Table, grams: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """p(last byte | the others) of each gram, given that of the order below."""
    context, known = _find(table.contexts, grams >> np.uint64(8))
    gram, seen = _find(table.grams, grams)
    counts = np.where(seen, table.counts[gram], 0)
    own = counts - table.discounts[np.minimum(counts, 3)]
    return np.where(known, (own + table.held_back[context] * lower) / table.totals[context], lower)


def _find(table: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each value would stand in the sorted table, and whether it does."""
    places = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return places, table[places] == values


def _grams(text: np.ndarray, n: int) -> np.ndarray:
    """Each run of n bytes as one number, the first byte on top: [m - n + 1] uint64."""
    grams = np.zeros(len(text) - n + 1, np.uint64)
    for k in range(n):
        grams = grams << np.uint64(8) | text[k : len(text) - n + 1 + k]
    return grams


def baseline(data: Text, orders: Sequence[int] = ORDERS) -> dict[str, dict]:
    """Split -> order -> nats per byte, over the very targets that a model of `data` has.

    The bytes before a split are context to count from, which a model's first window has not.
    """
    text = np.concatenate([np.fromfile(path, np.uint8) for path in find_files(data.files)])
    train, before, found = data.train(), max(orders), {}
    for split in ("valid", "test"):
        part = getattr(data, split)()
        first, last = part.low + 1, part.low + len(part) * part.seq
        found[split] = nats_per_byte(
            text[: train.high], text[first - before : last + 1], before, orders
        )
    return found


if __name__ == "__main__":
    from jaxdl.core import load_experiment

    experiment, _ = load_experiment(__file__.replace("ngram.py", "shakespeare.py"))
    for split, values in baseline(experiment.data).items():
        print(split, {order: round(value, 4) for order, value in values.items()})
