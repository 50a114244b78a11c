"""Makes digits_50.json: test accuracies of a small network with 50 seeds, and of a variant.

Run:    python tests/report/digits_50.py     (about a minute on one core)

Real results for the tests of statistics to draw from: they move in steps of 1/360, tie often and
are skewed. A seed sets the initial weights and the order of the examples, in both alike.
"""

import json
import warnings
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

VARIANTS = {"base": {}, "decayed": {"alpha": 0.3}}


def accuracies(**options) -> list[float]:
    """One for each seed; the 360 test digits are the same for all."""
    x, y = load_digits(return_X_y=True)
    x, test_x, y, test_y = train_test_split(x / 16, y, test_size=360, random_state=0, stratify=y)
    found = []
    for seed in range(50):
        model = MLPClassifier((32,), max_iter=25, learning_rate_init=1e-2, **options)
        found.append(model.set_params(random_state=seed).fit(x, y).score(test_x, test_y))
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)
    text = json.dumps({name: accuracies(**options) for name, options in VARIANTS.items()})
    Path(__file__).with_suffix(".json").write_text(text + "\n")
