import dataclasses

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdl.core import tree

NAMES = st.sampled_from(["kernel", "bias", "block", "norm", "a", "b"])
TREES = st.recursive(
    st.integers(0, 99),
    lambda branch: st.dictionaries(NAMES, branch, min_size=1, max_size=3),
    max_leaves=8,
).filter(lambda t: isinstance(t, dict))
PATTERNS = st.sampled_from(["*", "a/*", "*bias", "*/norm/*", "b", "none", "*k*l"])


def matching(t, pattern):
    return {path: leaf for path, leaf in tree.flatten(t).items() if tree.matches(path, pattern)}


@given(TREES, PATTERNS)
def test_select_keeps_exactly_the_leaves_that_match(t, pattern):
    chosen = tree.select(t, pattern)
    assert tree.flatten(chosen) == matching(t, pattern)
    branches = jax.tree.leaves(chosen, is_leaf=lambda x: x == {} and x is not chosen)
    assert {} not in branches


@given(TREES, PATTERNS)
def test_merging_what_was_selected_changes_nothing(t, pattern):
    assert tree.merge(t, tree.select(t, pattern)) == t


@given(TREES, PATTERNS)
def test_merge_replaces_the_selected_leaves_and_no_others(t, pattern):
    moved = jax.tree.map(lambda x: x + 1000, tree.select(t, pattern))
    merged = tree.flatten(tree.merge(t, moved))
    before, chosen = tree.flatten(t), matching(t, pattern)
    assert merged == {p: x + 1000 if p in chosen else x for p, x in before.items()}


@given(TREES, PATTERNS)
def test_mask_has_the_tree_s_structure_and_says_who_matches(t, pattern):
    masked = tree.mask(t, pattern)
    assert jax.tree.structure(masked) == jax.tree.structure(t)
    assert tree.flatten(masked) == {p: p in matching(t, pattern) for p in tree.flatten(t)}


@given(TREES, TREES)
def test_merge_leaves_its_arguments_alone(a, b):
    copies = jax.tree.map(lambda x: x, (a, b))
    tree.merge(a, b)
    assert (a, b) == copies


def test_patterns_cross_slashes_and_distinguish_case():
    assert tree.matches("block/attention/q/kernel", "block/*kernel")
    assert tree.matches("block/bias", ("*scale", "*bias"))
    assert not tree.matches("Block/bias", "block/*")
    assert not tree.matches("block/bias", ())


def test_paths_name_dict_keys_tuples_and_fields():
    state = {"opt": (jnp.zeros(2), {"mu": jnp.zeros(3)})}
    assert list(tree.flatten(state)) == ["opt/0", "opt/1/mu"]
    assert tree.size(state) == 5


def test_a_dataclass_is_a_frozen_tree():
    @tree.dataclass
    class Pair:
        left: jax.Array
        right: jax.Array

    pair = Pair(left=jnp.ones(2), right=jnp.zeros(3))
    doubled = jax.jit(lambda p: jax.tree.map(lambda x: 2 * x, p))(pair)
    assert isinstance(doubled, Pair)
    assert doubled.left.tolist() == [2, 2]
    assert list(tree.flatten(pair)) == ["left", "right"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.left = 0
