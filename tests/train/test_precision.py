"""The bf16 policy, seen from the step: what is computed in half precision and what is not."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core.precision import policy
from jaxdl.data import Digits
from jaxdl.models.gpt import GPT
from jaxdl.models.mlp import MLP
from jaxdl.models.resnet import ResNet
from jaxdl.optim import AdamW, Constant
from jaxdl.parallel import unbox
from jaxdl.tasks import Classification, LanguageModel
from jaxdl.train import state as states
from jaxdl.train.grad import gradient
from jaxdl.train.step import make_step

KEY = jax.random.key(0)
IMAGES = {"image": jnp.ones((4, 8, 8, 1)), "label": jnp.zeros(4, jnp.int32)}
CASES = {
    "mlp": (Classification(smoothing=0.1), MLP(widths=(8,), classes=10), IMAGES),
    "resnet": (Classification(), ResNet(stages=(1,), width=4, classes=10), IMAGES),
    "gpt": (
        LanguageModel(z_loss=1e-4),
        GPT(vocab=16, width=8, depth=2, heads=2, seq=8),
        {"tokens": jnp.ones((2, 9), jnp.int32)},
    ),
}
MATRIX = {"dot_general", "conv_general_dilated"}
PRECISE = {"exp", "exp2", "log", "log1p", "rsqrt", "sqrt", "reduce_max"}
"""Softmax, statistics and losses are made of these, and of sums and quotients."""


def equations(jaxpr):
    """Those of a program for a TPU: on a CPU, kernels multiply in float32."""
    branch = {}
    for eqn in jaxpr.eqns:
        yield eqn
        inner = jax.extend.core.jaxprs_in_params(eqn.params)
        if eqn.primitive.name == "platform_index":
            platforms = eqn.params["platforms"]
            branch[eqn.outvars[0]] = next(
                i for i, p in enumerate(platforms) if p is None or "tpu" in p
            )
        elif eqn.primitive.name == "cond" and eqn.invars[0] in branch:
            inner = [eqn.params["branches"][branch[eqn.invars[0]]].jaxpr]
        for one in inner:
            yield from equations(one)


def dtypes(jaxpr, names):
    """Floating dtypes that operations of these names take, by name."""
    found = {}
    for eqn in equations(jaxpr.jaxpr):
        for x in eqn.invars:
            if eqn.primitive.name in names and jnp.issubdtype(x.aval.dtype, jnp.floating):
                found.setdefault(eqn.primitive.name, set()).add(str(x.aval.dtype))
    return found


@pytest.mark.row("C-012")
@pytest.mark.parametrize("name", CASES)
def test_matrices_are_multiplied_in_bf16_and_what_needs_f32_has_it(name):
    task, model, batch = CASES[name]
    params, model_state = jax.eval_shape(lambda: unbox(task.init(model, KEY, batch)))
    (player,) = task.players(model)

    def total(params):
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), model_state)
        sums, (state, _) = player.loss(policy("bf16").cast(params), zeros, batch, KEY)
        return sums.total, state

    forward, (loss, state) = jax.make_jaxpr(total, return_shape=True)(params)
    assert loss.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {jnp.dtype("float32")}
    half = dtypes(forward, MATRIX)
    assert half
    assert all(found == {"bfloat16"} for found in half.values()), half
    single = dtypes(forward, PRECISE | {"reduce_sum", "div"})
    assert {"exp", "log", "reduce_sum"} <= set(single)
    assert all(found == {"float32"} for found in single.values()), single

    backward, (grads, _) = jax.make_jaxpr(jax.grad(total, has_aux=True), return_shape=True)(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    single = dtypes(backward, PRECISE)
    assert all(found == {"float32"} for found in single.values()), single


@pytest.mark.row("C-012")
def test_an_epoch_of_digits_stays_within_2_percent_of_f32_and_the_state_stays_f32():
    task, model = Classification(), MLP(widths=(32,), classes=10)
    (player,) = task.players(model)
    source = Digits().train()
    image = source.arrays["image"][: 18 * 64].reshape(18, 64, 8, 8, 1).astype(np.float32) / 16
    epoch = {"image": image, "label": source.arrays["label"][: 18 * 64].reshape(18, 64)}
    first = {name: x[0] for name, x in epoch.items()}
    params, model_state = unbox(task.init(model, KEY, first))
    txs = {"main": AdamW(1e-2, Constant(), decay=0.1).build(18, params)}
    start = states.create(params, model_state, (player,), txs, seed=0, ema=True)
    curves = {}
    for name in ("f32", "bf16"):
        step = make_step(task, model, txs, grad=gradient(), precision=policy(name), ema=0.9)

        def run(state, batch, step=step):
            state, metrics = step(state, batch)
            return state, metrics["loss"].compute()

        end, curves[name] = jax.jit(lambda s, e, run=run: jax.lax.scan(run, s, e))(start, epoch)
        for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(end), strict=True):
            assert after.dtype == before.dtype
        assert {leaf.dtype for leaf in jax.tree.leaves((end.params, end.ema))} == {np.dtype("f4")}
    assert curves["f32"][-1] < 0.6 * curves["f32"][0]
    np.testing.assert_allclose(curves["bf16"], curves["f32"], rtol=0.02)
    assert not np.array_equal(curves["bf16"], curves["f32"])
