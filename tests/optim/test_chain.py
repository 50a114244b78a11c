import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl.core.errors import InputError
from jaxdl.optim import SAM, SGD, Adafactor, AdamW, Constant, Cosine, Lion, Optimizer

RNG = np.random.default_rng(0)
LR, DECAY = 0.1, 0.3
PARAMS = {"kernel": RNG.normal(size=(4, 6)).astype(np.float32), "bias": np.ones(6, np.float32)}
GRADS = [
    {name: RNG.normal(size=p.shape).astype(np.float32) for name, p in PARAMS.items()}
    for _ in range(3)
]
CONVERGE = {
    "adamw": AdamW(peak_lr=0.1),
    "sgd": SGD(peak_lr=0.03),
    "sgd_heavy_ball": SGD(peak_lr=0.03, nesterov=False),
    "sgd_plain": SGD(peak_lr=0.3, momentum=0.0),
    "lion": Lion(peak_lr=0.05),
    "adafactor": Adafactor(peak_lr=0.3, min_factored=2),
    "adafactor_absolute": Adafactor(peak_lr=0.1, relative=False),
    "clipped": SGD(peak_lr=0.1, clip=1.0),
}


def after(optim, params, grads):
    """The parameters after each of the given gradients."""
    tx = optim.build(100, params)

    @jax.jit
    def update(grad, state, params):
        updates, state = tx.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    state, found = tx.init(params), []
    for grad in grads:
        params, state = update(grad, state, params)
        found.append(jax.tree.map(np.asarray, params))
    return found


def by_hand(step):
    """The kernel after each gradient, by `step(p, g, memory, t)` in float64."""
    p, memory, found = PARAMS["kernel"].astype(np.float64), {"m": 0.0, "v": 0.0}, []
    for t, grad in enumerate(GRADS, 1):
        p = step(p, grad["kernel"].astype(np.float64), memory, t)
        found.append(p)
    return found


def adamw(p, g, s, t):
    s["m"] = 0.8 * s["m"] + 0.2 * g
    s["v"] = 0.95 * s["v"] + 0.05 * g**2
    m, v = s["m"] / (1 - 0.8**t), s["v"] / (1 - 0.95**t)
    return p - LR * (m / (np.sqrt(v) + 1e-3) + DECAY * p)


def nesterov(p, g, s, t):
    s["m"] = 0.7 * s["m"] + g
    return p - LR * (g + 0.7 * s["m"] + DECAY * p)


def heavy_ball(p, g, s, t):
    s["m"] = 0.7 * s["m"] + g
    return p - LR * s["m"]


def plain(p, g, s, t):
    return p - LR * g


def lion(p, g, s, t):
    direction = np.sign(0.5 * s["m"] + 0.5 * g)
    s["m"] = 0.9 * s["m"] + 0.1 * g
    return p - LR * (direction + DECAY * p)


PAPERS = [
    pytest.param(
        AdamW(LR, Constant(), decay=DECAY, b1=0.8, b2=0.95, eps=1e-3),
        adamw,
        id="adamw",
        marks=pytest.mark.row("X-007", "X-008"),
    ),
    pytest.param(SGD(LR, Constant(), decay=DECAY, momentum=0.7), nesterov, id="nesterov"),
    pytest.param(SGD(LR, Constant(), momentum=0.7, nesterov=False), heavy_ball, id="heavy_ball"),
    pytest.param(SGD(LR, Constant(), momentum=0.0), plain, id="plain"),
    pytest.param(
        Lion(LR, Constant(), decay=DECAY, b1=0.5, b2=0.9),
        lion,
        id="lion",
        marks=pytest.mark.row("X-013"),
    ),
]


@pytest.mark.parametrize("optim", CONVERGE.values(), ids=CONVERGE)
def test_every_optimizer_goes_down_a_quadratic(optim):
    target = {"kernel": np.linspace(-2, 2, 24).reshape(4, 6), "bias": np.full(6, -1.0)}
    curvature = jnp.linspace(0.5, 2.0, 6)

    def loss(params):
        parts = jax.tree.map(lambda p, t: (curvature * (p - t) ** 2).sum(), params, target)
        return sum(jax.tree.leaves(parts))

    tx = optim.build(300, PARAMS)

    def update(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    with jax.numpy_rank_promotion("allow"):
        run = jax.jit(lambda p: jax.lax.scan(update, (p, tx.init(p)), length=300)[0][0])
        assert loss(run(PARAMS)) < 1e-2 * loss(PARAMS)


def test_that_sweep_covers_every_optimizer():
    assert {type(optim) for optim in CONVERGE.values()} == set(Optimizer.__subclasses__())


@pytest.mark.parametrize(("optim", "step"), PAPERS)
def test_the_first_three_steps_are_those_of_the_paper(optim, step):
    for found, expected in zip(after(optim, PARAMS, GRADS), by_hand(step), strict=True):
        np.testing.assert_allclose(found["kernel"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("factored", [2, 128])
def test_adafactor_is_optax_s(relative, factored):
    ours = after(Adafactor(LR, Constant(), min_factored=factored, relative=relative), PARAMS, GRADS)
    tx = optax.adafactor(
        LR, min_dim_size_to_factor=factored, multiply_by_parameter_scale=relative, momentum=None
    )
    params, state, update = PARAMS, tx.init(PARAMS), jax.jit(tx.update)
    for found, grad in zip(ours, GRADS, strict=True):
        updates, state = update(grad, state, params)
        params = optax.apply_updates(params, updates)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, params)


def test_adafactor_keeps_a_row_and_a_column_of_a_factored_matrix():
    state = Adafactor(min_factored=2).build(10, PARAMS).init(PARAMS)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert {(4,), (6,)} <= shapes
    assert (4, 6) not in shapes


STACKABLE = {
    "adamw": AdamW(LR, Constant(), decay=DECAY),
    "sgd": SGD(LR, Constant(), decay=DECAY),
    "lion": Lion(LR, Constant(), decay=DECAY),
    "adafactor": Adafactor(LR, Constant(), decay=DECAY),
    "adafactor_small": Adafactor(LR, Constant(), min_factored=8, clip_rms=0.1),
    "adafactor_absolute": Adafactor(LR, Constant(), relative=False, clip_rms=0.1),
    "adafactor_whole": Adafactor(LR, Constant(), min_factored=1000, clip_rms=0.1),
}


@pytest.mark.parametrize("optim", STACKABLE.values(), ids=STACKABLE)
def test_stacked_layers_are_updated_as_the_layers_by_themselves(optim):
    """Scanning over layers must not change the algorithm, however their scales differ."""
    rng, scales = np.random.default_rng(1), (1.0, 100.0, 0.01)

    def layers():
        shapes = {"kernel": (128, 130), "small": (9, 8), "bias": (130,)}
        return [
            {k: (s * rng.normal(size=shape)).astype(np.float32) for k, shape in shapes.items()}
            for s in scales
        ]

    def stacked(parts):
        return {"blocks": {"layers": jax.tree.map(lambda *x: np.stack(x), *parts)}}

    def apart(parts):
        return {f"block_{i}": part for i, part in enumerate(parts)}

    params, grads = layers(), [layers() for _ in range(3)]
    expected = after(optim, apart(params), [apart(g) for g in grads])
    found = after(optim, stacked(params), [stacked(g) for g in grads])
    for step, alone in zip(found, expected, strict=True):
        trees = (step, stacked(alone.values()), stacked(params))
        for a, b, p in zip(*map(jax.tree.leaves, trees), strict=True):
            assert not np.array_equal(a, p)
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_that_law_covers_every_optimizer():
    assert {type(optim) for optim in STACKABLE.values()} == set(Optimizer.__subclasses__())


def test_a_stack_that_adafactor_would_factor_over_its_layers_is_refused():
    deep = {"blocks": {"layers": {"bias": np.ones((8, 16)), "kernel": np.ones((8, 16, 16))}}}
    says = r"min_factored=8 would factor 'blocks/layers/bias' \[8, 16\] .* set it to 9"
    with pytest.raises(InputError, match=says):
        Adafactor(min_factored=8).build(10, deep)
    Adafactor(min_factored=9).build(10, deep)
    Adafactor(min_factored=8, stacked=()).build(10, deep)


def test_a_pattern_that_spares_nothing_from_decay_is_refused():
    params = {"norm": {"scale": np.ones(4)}, "tokens": {"embedding": np.ones((5, 4))}}
    with pytest.raises(InputError, match="'\\*embeding'; did you mean 'tokens/embedding'"):
        AdamW(no_decay=("*scale", "*embeding")).build(10, params)
    AdamW(no_decay=("*bias", "*embedding")).build(10, params)  # no bias: the default's own pattern
    AdamW().build(10, {"kernel": np.ones((2, 3))})


@pytest.mark.row("X-008")
@pytest.mark.parametrize("optim", [AdamW, SGD, Lion, Adafactor])
def test_decay_shrinks_by_rate_times_decay_whatever_the_gradients_were(optim):
    """A penalty in the gradient would be divided by sqrt v, or pass through the sign."""
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    found = after(optim(LR, Constant(), decay=DECAY), PARAMS, [zeros] * 3)[-1]
    np.testing.assert_allclose(found["kernel"], (1 - LR * DECAY) ** 3 * PARAMS["kernel"], rtol=1e-5)
    np.testing.assert_array_equal(found["bias"], PARAMS["bias"])


def test_decay_goes_by_path_not_by_rank():
    """Stacked layers [L, ...] make vectors of biases into matrices."""
    layer = {
        "norm": {"scale": np.ones((3, 4)), "bias": np.ones((3, 4))},
        "mlp": {"kernel": np.ones((3, 4, 8)), "bias": np.ones((3, 8))},
    }
    params = {"blocks": {"layers": layer}, "tokens": {"embedding": np.ones((5, 4))}}
    zeros = jax.tree.map(np.zeros_like, params)
    found = after(AdamW(LR, Constant(), decay=DECAY), params, [zeros])[0]
    layers = found["blocks"]["layers"]
    for kept in (layers["norm"]["scale"], layers["norm"]["bias"], layers["mlp"]["bias"]):
        np.testing.assert_array_equal(kept, 1)
    for decayed in (layers["mlp"]["kernel"], found["tokens"]["embedding"]):
        np.testing.assert_allclose(decayed, 1 - LR * DECAY)
    wide = AdamW(LR, Constant(), decay=DECAY, no_decay=("*/norm/*", "tokens/*"))
    found = after(wide, params, [zeros])[0]
    np.testing.assert_array_equal(found["tokens"]["embedding"], 1)
    np.testing.assert_allclose(found["blocks"]["layers"]["mlp"]["bias"], 1 - LR * DECAY)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_clipping_bounds_the_global_norm_and_keeps_the_direction(scale):
    optim = SGD(1.0, Constant(), momentum=0.0, clip=0.5)
    grad = jax.tree.map(lambda g: scale * g, GRADS[0])
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grad.values()))
    found = after(optim, PARAMS, [grad])[0]
    for name, g in grad.items():
        expected = PARAMS[name] - g * min(1, 0.5 / norm)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AdamW(peak_lr=0.0), "peak_lr=0.0 must be positive"),
        (lambda: AdamW(peak_lr=float("nan")), "peak_lr=nan must be positive"),
        (lambda: SGD(peak_lr=float("inf")), "peak_lr=inf must be positive and finite"),
        (lambda: SGD(clip=-1.0), r"clip=-1\.0 must be at least 0; 0 is off"),
        (lambda: Lion(decay=-0.1), r"decay=-0\.1 must be at least 0; 0 is off"),
        (lambda: SGD(momentum=1.0), r"momentum=1\.0 must lie in \[0, 1\)"),
        (lambda: AdamW(b2=1.0), r"b2=1\.0 must lie in \[0, 1\)"),
        (lambda: Lion(b1=-0.1), r"b1=-0\.1 must lie in \[0, 1\)"),
        (lambda: SAM(rho=0.0), r"rho=0\.0 must be positive; set optim\.sam to none"),
        (lambda: AdamW(schedule=Cosine(warmup=100)).build(100, PARAMS), "warmup=100 .* try 10"),
    ],
)
def test_values_that_cannot_train_are_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()
