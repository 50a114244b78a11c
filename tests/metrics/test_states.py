import inspect

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu import metrics as clu_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss

from jaxdl import metrics
from jaxdl.core.errors import InputError
from jaxdl.core.task import Sums
from jaxdl.losses import cross_entropy
from jaxdl.metrics import Accuracy, Frechet, Last, Mean, Perplexity, compute, merge, reduce

RNG = np.random.default_rng(0)
SIZE, BATCH = 53, 16
LABELS = RNG.integers(0, 4, SIZE)
LOGITS = (RNG.normal(size=(SIZE, 4)) + 2 * np.eye(4)[LABELS]).astype(np.float32)
VALUES = RNG.normal(size=SIZE).astype(np.float32)

EXAMPLES = {
    Mean: lambda: Mean.from_model_output(jnp.array(VALUES)),
    Perplexity: lambda: Perplexity.from_model_output(jnp.array(VALUES)),
    Accuracy: lambda: Accuracy.from_model_output(jnp.array(LOGITS), jnp.array(LABELS)),
    Last: lambda: Last.of(3.5),
    Frechet: lambda: Frechet.from_model_output(
        jnp.array(LOGITS), jnp.array(LOGITS) + 1, jnp.ones(SIZE)
    ),
}
KINDS = [
    k for k in vars(metrics).values() if inspect.isclass(k) and issubclass(k, clu_metrics.Metric)
]


def padded(starts):
    """Batches of `BATCH` rows that begin at `starts`; rows of padding are NaN and masked."""
    for start, end in zip(starts, [*starts[1:], SIZE], strict=True):
        rows = np.arange(start, min(end, SIZE))
        mask = np.zeros(BATCH, np.float32)
        mask[: len(rows)] = 1
        logits = np.full((BATCH, 4), np.nan, np.float32)
        labels, values = np.zeros(BATCH, int), np.full(BATCH, np.nan, np.float32)
        logits[: len(rows)], labels[: len(rows)] = LOGITS[rows], LABELS[rows]
        values[: len(rows)] = VALUES[rows]
        yield tuple(map(jnp.array, (logits, labels, values, mask)))


@jax.jit
def states(logits, labels, values, mask):
    sums = cross_entropy(logits, labels, mask=mask)
    return {
        "accuracy": Accuracy.from_model_output(logits, labels, mask),
        "loss": Mean.from_sums(sums),
        "perplexity": Perplexity.from_sums(sums),
        "mean": Mean.from_model_output(values, mask),
    }


def share(logits):
    p = np.exp(logits.astype(np.float64))
    return p / p.sum(-1, keepdims=True)


@pytest.mark.row("C-008")
def test_a_ragged_last_batch_gives_the_numbers_of_scikit_learn():
    found = compute(merge(states(*batch) for batch in padded(range(0, SIZE, BATCH))))
    nats = log_loss(LABELS, share(LOGITS))
    assert found["accuracy"] == accuracy_score(LABELS, LOGITS.argmax(-1))
    assert found["loss"] == pytest.approx(nats, rel=1e-6)
    assert found["perplexity"] == pytest.approx(np.exp(nats), rel=1e-6)
    assert found["mean"] == pytest.approx(VALUES.astype(float).mean(), rel=1e-5)


@settings(max_examples=20)
@given(st.lists(st.integers(1, BATCH), min_size=SIZE, max_size=SIZE))
def test_any_split_into_batches_gives_the_same_values(lengths):
    starts = np.cumsum([0, *lengths])
    starts = starts[starts < SIZE].tolist()
    found = compute(merge(states(*batch) for batch in padded(starts)))
    assert found["accuracy"] == (LOGITS.argmax(-1) == LABELS).mean()
    assert found["loss"] == pytest.approx(log_loss(LABELS, share(LOGITS)), rel=1e-6)


def test_more_batches_than_are_held_at_a_time_all_count():
    count = 2 * metrics.host.AHEAD + 3
    found = merge({"mean": Mean(total=np.float32(i), weight=np.float32(1))} for i in range(count))
    assert found["mean"].weight == count
    assert found["mean"].total == count * (count - 1) / 2


@pytest.mark.row("X-019")
def test_perplexity_is_exp_of_the_mean_over_tokens_not_over_batches():
    nats, tokens = np.array([1.0, 3.0, 0.5]), np.array([8.0, 1.0, 5.0])
    parts = [
        {"perplexity": Perplexity.from_sums(Sums(total=jnp.float32(a * n), weight=jnp.float32(n)))}
        for a, n in zip(nats, tokens, strict=True)
    ]
    found = compute(merge(parts))["perplexity"]
    assert found == pytest.approx(np.exp(nats @ tokens / tokens.sum()), rel=1e-6)
    # The same number from bits: 2^(cross-entropy in bits per token).
    assert found == pytest.approx(2 ** (nats @ tokens / np.log(2) / tokens.sum()), rel=1e-6)


def test_a_perplexity_that_overflows_is_infinite():
    state = Perplexity(total=jnp.float32(1000), weight=jnp.float32(1))
    assert compute(merge([{"perplexity": state}])) == {"perplexity": np.inf}


def test_counts_beyond_two_to_the_24_stay_exact():
    big, one = jnp.float32(2**24), jnp.float32(1)
    found = merge([{"m": Mean(total=big, weight=big)}] + [{"m": Mean(total=one, weight=one)}] * 3)
    assert found["m"].weight == found["m"].total == 2**24 + 3
    many = Accuracy(correct=jnp.int32(2**30), weight=jnp.int32(2**31 - 1))
    found = merge([{"a": many}] * 4)
    assert found["a"].weight == 4 * (2**31 - 1)
    assert compute(found)["a"] == 2**30 / (2**31 - 1)


def test_what_counted_nothing_is_left_out():
    empty = Accuracy.from_model_output(jnp.array(LOGITS), jnp.array(LABELS), jnp.zeros(SIZE))
    found = compute(merge([{"a": empty, "m": Mean.empty(), "k": EXAMPLES[Mean]()}] * 2))
    assert list(found) == ["k"]


def test_metrics_of_clu_are_merged_and_empty_without_a_count():
    def told(mask):
        logits, labels, mask = jnp.array(LOGITS), jnp.array(LABELS), jnp.array(mask)
        return {
            "accuracy": clu_metrics.Accuracy.from_model_output(
                logits=logits, labels=labels, mask=mask
            ),
            "mean": clu_metrics.Average.from_model_output(jnp.array(VALUES), mask),
        }

    first = np.arange(SIZE) < 20
    found = compute(merge([told(first), told(~first), told(np.zeros(SIZE, bool))]))
    assert found["accuracy"] == (LOGITS.argmax(-1) == LABELS).mean()
    assert found["mean"] == pytest.approx(VALUES.astype(float).mean(), rel=1e-5)
    assert compute(merge([told(np.zeros(SIZE, bool))])) == {}


def test_a_state_that_counts_nothing_is_never_empty():
    @flax.struct.dataclass
    class Largest(clu_metrics.Metric):
        value: jax.Array

        def merge(self, other):
            return Largest(value=np.maximum(self.value, other.value))

        def compute(self):
            return self.value

    many = Largest(value=jnp.array([1.0, 7.0, 3.0]))
    assert reduce(many).value == 7, "one without `reduce` of its own is merged"
    zeros = [{"largest": Largest(value=jnp.float32(x))} for x in (-1, 0)]
    assert compute(merge(zeros)) == {"largest": 0.0}


def test_every_metric_has_an_example():
    assert set(KINDS) == set(EXAMPLES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["device", "host"])
def test_a_state_of_zeros_changes_nothing(kind, where):
    state = EXAMPLES[kind]()
    state = jax.tree.map(np.asarray, state) if where == "host" else state
    zeros = jax.tree.map(lambda x: x * 0, state)
    for merged in (zeros.merge(state), state.merge(zeros)):
        assert type(merged) is kind
        jax.tree.map(np.testing.assert_array_equal, merged, state)
        assert float(merged.compute()) == float(state.compute())


@pytest.mark.parametrize("kind", KINDS)
def test_states_keep_their_types_when_merged_under_jit(kind):
    state = EXAMPLES[kind]()
    merged = jax.jit(lambda a, b: a.merge(b))(state, state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(merged), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["device", "host"])
def test_reducing_a_dimension_is_merging_in_its_order(kind, where):
    state = EXAMPLES[kind]()
    many = [jax.tree.map(lambda x, i=i: x * i, state) for i in (1, 2, 0)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *many)
    stacked = jax.tree.map(np.asarray, stacked) if where == "host" else stacked
    merged = many[0].merge(many[1]).merge(many[2])
    for a, b in zip(*map(jax.tree.leaves, (reduce(stacked), merged)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, reduce(stacked), jax.jit(reduce)(stacked))


@pytest.mark.parametrize("kind", [Mean, Perplexity, Accuracy])
def test_empty_is_the_state_of_zeros(kind):
    zeros = jax.tree.map(jnp.zeros_like, EXAMPLES[kind]())
    jax.tree.map(np.testing.assert_array_equal, kind.empty(), zeros)


def test_the_last_value_wins_unless_it_is_empty():
    parts = [Last.of(1.0), Last.of(2.0), jax.tree.map(jnp.zeros_like, Last.of(0.0))]
    assert compute(merge({"lr": part} for part in parts)) == {"lr": 2.0}


def test_names_that_come_and_go_are_all_there():
    found = merge([{"a": Last.of(1)}, {"b": Last.of(2)}, {"a": Last.of(3)}])
    assert compute(found) == {"a": 3.0, "b": 2.0}


def test_a_mask_weighs_the_mean():
    found = Mean.from_model_output(jnp.array([1.0, 5.0, np.inf]), jnp.array([0.5, 1.5, 0.0]))
    assert found.compute() == 4.0


@pytest.mark.row("C-041")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Accuracy.from_model_output(jnp.ones((3, 2)), jnp.ones((3, 1), int)), "logits has"),
        (lambda: Mean.from_model_output(jnp.ones(3), jnp.ones((3, 1))), "mask has shape"),
        (lambda: Frechet.from_model_output(*[jnp.ones((3, 2))] * 3), "mask has shape"),
    ],
)
def test_shapes_that_disagree_name_the_argument(make, says):
    with pytest.raises(InputError, match=says):
        make()
