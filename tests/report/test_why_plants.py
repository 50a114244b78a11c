"""Causes of ten kinds, planted one by one in real runs beside decoys: `why` names them first."""

import os
from dataclasses import dataclass, field

import numpy as np
import pytest

from jaxdl.core.loading import load_file
from jaxdl.report import explain

world_file = load_file(__file__.replace("test_why_plants", "world"))
edit, package, other_pixel = world_file.edit, world_file.package, world_file.other_pixel


@dataclass(frozen=True)
class Plant:
    """What is changed, and what must be named."""

    kind: str
    names: str
    """Kind and beginning of the name that must come first."""
    variant: str = "base"
    act: object = None
    """What it does to the world; may return a folder for PYTHONPATH."""
    edits: tuple[str, ...] = ()
    env: dict = field(default_factory=dict)


def own(file, old, new):
    return lambda world: edit(world.tree / file, old, new)


def theirs(old, new, file="exp.py"):
    return lambda world: edit(world.lab / file, old, new)


def other_valid_pixel(world):
    other_pixel(world, "valid/4/084.png")


def one_number(world):
    table = np.load(world.lab / "table.npy")
    table[7, 3, 3] ^= 8
    np.save(world.lab / "table.npy", table)


def other_rows(world):
    table = np.load(world.lab / "table.npy")
    np.save(world.lab / "table.npy", table[::-1])


def other_names(world):
    folder = world.lab / "images" / "train" / "3"
    (folder / "003.png").rename(folder / "999.png")


def another_optax(version):
    return lambda world: world_file.other_optax(world, version)


def other_flax(world):
    term = "keep_prob = 1.0 - self.rate"
    return package(world.top, "flax", "0.11.0", "linen/stochastic.py", term, term + " * 0.9")


PLANTS = {
    "activation": Plant(
        "line of code",
        "code jaxdl/models/mlp.py:",
        act=own("jaxdl/models/mlp.py", "nn.relu", "nn.tanh"),
    ),
    "decay": Plant(
        "line of code",
        "code jaxdl/optim/chain.py:",
        act=own(
            "jaxdl/optim/chain.py",
            "add_decayed_weights(self.decay,",
            "add_decayed_weights(self.decay / 2,",
        ),
    ),
    "key of init": Plant(
        "key",
        "code jaxdl/train/functions.py:",
        act=own(
            "jaxdl/train/functions.py",
            'rng.root(seed), "init")',
            'rng.root(seed), "start")',
        ),
    ),
    "key of a crop": Plant(
        "key",
        "code jaxdl/data/transform.py:",
        act=own("jaxdl/data/transform.py", 'integers("crop"', 'integers("cut"'),
    ),
    "plan": Plant("data order", "code exp.py:", "table", theirs("FIRST = 0", "FIRST = 1")),
    "file names": Plant("data order", "data train", "folder", other_names),
    "a pixel": Plant("data byte", "data train", "folder", other_pixel),
    "a number": Plant("data byte", "data train", "table", one_number),
    "resize of images": Plant(
        "resize mode",
        "code jaxdl/data/images.py:",
        "folder",
        own("jaxdl/data/images.py", "BICUBIC", "BILINEAR"),
    ),
    "resize of a table": Plant(
        "resize mode", "code exp.py:", "table", theirs("Resampling.BOX", "Resampling.NEAREST")
    ),
    "two devices": Plant(
        "flag",
        "environment XLA_FLAGS",
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    ),
    "fast mathematics": Plant(
        "flag", "environment XLA_FLAGS", env={"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}
    ),
    "another optax": Plant("dependency", "versions optax", act=another_optax("9.9.9")),
    "an edited optax": Plant("dependency", "versions optax", act=another_optax(None)),
    "threefry": Plant(
        "environment variable",
        "environment JAX_THREEFRY_PARTITIONABLE",
        env={"JAX_THREEFRY_PARTITIONABLE": "0"},
    ),
    "a variable of the experiment": Plant(
        "environment variable", "environment MY_SCALE", "table", env={"MY_SCALE": "1.5"}
    ),
    "seed": Plant("seed", "seed seed", edits=("seed=1",)),
    "seed in the file": Plant("seed", "seed seed", "folder", theirs("seed=0,", "seed=3,")),
    "precision": Plant("dtype", "config precision", edits=("precision=bf16",)),
    "scale in half": Plant(
        "dtype",
        "code jaxdl/data/transform.py:",
        act=own(
            "jaxdl/data/transform.py",
            "unit = (x.astype(np.float32)",
            "unit = np.sqrt(2) * (x.astype(np.float16)",
        ),
    ),
}


MORE = {
    "loss": Plant(
        "line of code",
        "code jaxdl/losses/cross_entropy.py:",
        act=own("jaxdl/losses/cross_entropy.py", "loss = log_z -", "loss = 1.01 * log_z -"),
    ),
    "key of a step": Plant(
        "key",
        "code jaxdl/train/step.py:",
        "drop",
        own("jaxdl/train/step.py", "state.step, player.name)", "player.name, state.step)"),
    ),
    "rounds": Plant(
        "data order",
        "code jaxdl/data/order.py:",
        act=own("jaxdl/data/order.py", "ROUNDS = 10", "ROUNDS = 12"),
    ),
    "rows": Plant("data order", "data train", "noisy", other_rows),
    "a pixel of valid": Plant("data byte", "data valid", "folder", other_valid_pixel),
    "resize beside": Plant(
        "resize mode", "code helper.py:", "noisy", theirs("BILINEAR", "LANCZOS", "helper.py")
    ),
    "older processor": Plant(
        "flag", "environment XLA_FLAGS", "drop", env={"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"}
    ),
    "another flax": Plant("dependency", "versions flax", "drop", other_flax),
    "generator": Plant(
        "environment variable",
        "environment JAX_DEFAULT_PRNG_IMPL",
        "drop",
        env={"JAX_DEFAULT_PRNG_IMPL": "rbg"},
    ),
    "a variable beside": Plant(
        "environment variable", "environment IMAGE_SIDE", "noisy", env={"IMAGE_SIDE": "5"}
    ),
    "seed of noise": Plant(
        "seed", "code exp.py:", "noisy", theirs("default_rng(11)", "default_rng(12)")
    ),
    "logits in half": Plant(
        "dtype",
        "code jaxdl/losses/cross_entropy.py:",
        act=own(
            "jaxdl/losses/cross_entropy.py",
            "logits = kept(logits.astype(jnp.float32)",
            "logits = kept(logits.astype(jnp.bfloat16)",
        ),
    ),
    "half precision": Plant("dtype", "config precision", "noisy", edits=("precision=f16",)),
}
ALL = PLANTS | MORE


def decoys(world):
    """What differs in every pair besides the plant and moves no number; a folder of packages."""
    edit(world.lab / "beside.py", "1", "2")
    edit(world.lab / "helper.py", "return x + 1", "return x + 2")
    for file in ("models/vit.py", "report/words.py"):  # no run imports them
        edit(world.tree / "jaxdl" / file, "import annotations\n", "import annotations\n\nA = 1\n")
    for file in ("data/transform.py", "train/loop.py", "optim/chain.py"):
        edit(world.tree / "jaxdl" / file, '"""', '"""In other words:\n')
    edit(world.tree / "jaxdl/data/transform.py", "x[:, :, ::-1]", "x[:, ::-1]")  # nobody flips
    packages = world.top / "packages"
    for name in ("another_one-1.2", "zebra-3"):
        (packages / f"{name}.dist-info").mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    quiet = {"MALLOC_ARENA_MAX": "2", "TF_CPP_MIN_LOG_LEVEL": "2", "JAX_LOG_COMPILES": "0"}
    return packages, threads | quiet


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return world_file.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def found(world):
    """What `why` says of a run with one planted, and the decoys, and one without; kept."""
    told = {}

    def of(name):
        if name not in told:
            try:
                told[name] = explain(*planted(world, name))
            finally:
                world_file.restore(world)
        return told[name]

    return of


def planted(world, name):
    """The run in which nothing is planted, and that with the plant of this name."""
    plant = ALL[name]
    base = world.base(plant.variant)
    path = plant.act(world) if plant.act else None
    packages, more = decoys(world)
    path = os.pathsep.join(str(p) for p in (path, packages) if p)
    named = name.replace(" ", "-")
    return base, world.run(named, plant.variant, *plant.edits, path=path, **more, **plant.env)


def is_named(name, found):
    """Whether the plant is the first cause of a parting."""
    if found.parting is None:
        return False
    first = found.likely[0]
    return f"{first.kind} {first.name}".startswith(ALL[name].names)


def test_there_are_two_of_each_of_ten_kinds():
    kinds = [plant.kind for plant in PLANTS.values()]
    assert len(kinds) == 20 and {kinds.count(kind) for kind in kinds} == {2}
    assert {plant.kind for plant in MORE.values()} == set(kinds)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_nothing_but_the_plant_is_named(name, found):
    told = found(name)
    assert told.parting is None or is_named(name, told), told.likely
    names = {d.name for d in (*told.likely, *told.idle)}
    assert {"OMP_NUM_THREADS", "another-one", "PYTHONPATH"} <= names  # the decoys were there
    late = (told.likely[0], *(d for d in told.likely if d.stage == "unused"))
    assert {"helper.py", "jaxdl/data/transform.py"} <= {d.name.partition(":")[0] for d in late}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plants", "least"), [(PLANTS, 19), (MORE, len(MORE) - 1)], ids=["twenty", "more"]
)
def test_nearly_all_plants_are_named_first(plants, least, found):
    missed = [name for name in plants if not is_named(name, found(name))]
    assert len(plants) - len(missed) >= least, missed


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["base", "table", "folder", "noisy", "drop"])
def test_nothing_is_named_where_nothing_is_planted(variant, world):
    told = explain(world.base(variant), world.run(f"again-{variant}", variant))
    assert (told.likely, told.parting) == ((), None)


@pytest.mark.slow
def test_decoys_alone_move_nothing(world):
    packages, more = decoys(world)
    try:
        told = explain(
            world.base("noisy"), world.run("decoys", "noisy", path=str(packages), **more)
        )
    finally:
        world_file.restore(world)
    assert told.parting is None
    assert all(d.stage == "unused" or d.kind != "code" for d in told.likely), told.likely
