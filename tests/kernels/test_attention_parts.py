"""Parts of attention by themselves: gradients of gradients, dropout's bits, blocks of GPUs."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.kernels.flash_attention import DropWeights, few, flash_attention, spills, tiles
from jaxdl.kernels.flash_attention.spec import bits


def plain(q, k, v, bias):
    """Attention of a head of keys for all, by nothing of ours."""
    logits = jnp.einsum("bthk,bsk->bhts", q, k[:, :, 0]) * q.shape[-1] ** -0.5
    seen = jnp.tri(q.shape[1], k.shape[1], k.shape[1] - q.shape[1], dtype=bool)
    logits = jnp.where(seen[None, None], 1.5 * jnp.tanh(logits / 1.5) + bias, -1e30)
    return jnp.einsum("bhts,bsv->bthv", jax.nn.softmax(logits), v[:, :, 0])


def twice(attention, args):
    """Gradients of something nonlinear in the gradients, which both have several terms."""

    def first(*args):
        loss = lambda *args: (attention(*args) ** 2).sum()  # noqa: E731
        return sum(jnp.sin(g).sum() for g in jax.grad(loss, range(4))(*args))

    return jax.jit(jax.grad(first, range(4)))(*args)


@pytest.mark.row("C-030")
@pytest.mark.parametrize("most", [0, 2**19])
def test_gradients_of_gradients_are_those_of_a_plain_formula(most, monkeypatch):
    monkeypatch.setattr(few, "MOST", most)
    shapes = (2, 9, 2, 4), (2, 12, 1, 4), (2, 12, 1, 3), (1, 1, 1, 12)
    rng = np.random.default_rng(0)
    args = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    static = {"causal": True, "soft_cap": 1.5, "impl": "cpu"}
    found = twice(lambda q, k, v, bias: flash_attention(q, k, v, bias=bias, **static), args)
    with jax.enable_x64(True):
        right = twice(plain, [np.asarray(x, "float64") for x in args])
    for x, y in zip(found, right, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5 * np.abs(y).max(), rtol=1e-4)


def test_forward_mode_is_refused_by_name():
    args = (jnp.ones((1, 5, 2, 4)),) * 3
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(flash_attention, args, args)


def test_dropout_bits_are_fixed_fair_and_independent():
    at = jnp.arange(200)[:, None], jnp.arange(300)[None]
    first, second = (np.asarray(bits(jnp.int32(s), *at)) for s in (5, 6))
    # What was trained with them must not change.
    assert first[:2, :3].tolist() == [[1010917, 3950084, 9135803], [5564089, 6987843, 12296]]
    assert first.min() >= 0 and first.max() < 2**24
    for x in (first, second, first ^ second, first[1:] ^ first[:-1], first[:, 1:] ^ first[:, :-1]):
        for bit in range(24):
            assert abs((x >> bit & 1).mean() - 0.5) < 5 * 0.5 / 200
    kept = DropWeights(0.25, jnp.zeros((1, 2), jnp.uint32))(jnp.ones((1, 2, 200, 300)))
    assert abs(kept.mean() - 1) < 0.01 and set(np.unique(kept)) == {0, np.float32(1 / 0.75)}


@pytest.mark.parametrize(
    ("device", "limit"),
    [
        ("NVIDIA H100 80GB HBM3", 227),
        ("NVIDIA H200", 227),
        ("NVIDIA A100-SXM4-40GB", 163),
        ("NVIDIA A10G", 99),
        ("NVIDIA L4", 99),
        ("NVIDIA GeForce RTX 4090", 99),
        ("a kind that nobody knows", 99),
    ],
)
def test_blocks_fit_the_shared_memory_of_the_gpu(device, limit):
    largest = {2: 256, 4: 128}
    for itemsize, kernel, size in product(largest, spills.KERNELS, (64, 128, 256)):
        if size <= largest[itemsize]:
            tile = tiles.tile_of(kernel, device, size, itemsize)
            assert tiles.shared_bytes(kernel, tile, size, itemsize) <= limit * 2**10
    assert (tiles.tile_of("forward", device, 128, 2).c == 128) == (limit == 227)
