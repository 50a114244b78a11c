"""What an optimizer does by block of parameters, done by layer where layers are stacked."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import optax

from jaxdl.core import tree


def per_layer(
    link: optax.GradientTransformation, stacked: Iterable[str]
) -> optax.GradientTransformation:
    """A stateless `link` on each layer of the leaves [layers, ...] whose path matches `stacked`.

    Shazeer & Stern 2018 (arXiv:1804.04235, sections 6 and 8) clip and scale by the RMS of one
    weight matrix; that of all layers together would let the largest one set everybody's step.
    """

    def whole(update, param):
        return link.update(update, optax.EmptyState(), param)[0]

    def leaf(keys, update, param):
        by_layer = tree.matches(tree.path_of(keys), stacked)
        return (jax.vmap(whole) if by_layer else whole)(update, param)

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(leaf, updates, params)
    )
