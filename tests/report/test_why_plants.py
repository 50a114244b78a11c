"""Twenty causes of ten kinds, planted one by one in real runs: `why` names each first."""

import io
import os
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from jaxdl.core.loading import load_file
from jaxdl.report import explain

world_file = load_file(__file__.replace("test_why_plants", "world"))
edit, package = world_file.edit, world_file.package


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


def theirs(old, new):
    return lambda world: edit(world.lab / "exp.py", old, new)


def one_pixel(world):
    path = world.lab / "images" / "train" / "0" / "000.png"
    pixels = np.array(Image.open(path))
    pixels[3, 3] ^= 1
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    path.write_bytes(content.getvalue())


def one_number(world):
    table = np.load(world.lab / "table.npy")
    table[7, 3, 3] ^= 8
    np.save(world.lab / "table.npy", table)


def other_names(world):
    folder = world.lab / "images" / "train" / "3"
    (folder / "003.png").rename(folder / "999.png")


def other_optax(version):
    term = "(jnp.sqrt(v + eps_root) + eps)"
    edited = "_src/transform.py", term, term[:-1] + " + 1e-3)"
    return lambda world: package(world.top, "optax", version, *edited)


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
            'rng.root(exp.seed), "init")',
            'rng.root(exp.seed), "start")',
        ),
    ),
    "key of a crop": Plant(
        "key",
        "code jaxdl/data/transform.py:",
        act=own("jaxdl/data/transform.py", 'integers("crop"', 'integers("cut"'),
    ),
    "plan": Plant("data order", "code exp.py:", "table", theirs("FIRST = 0", "FIRST = 1")),
    "file names": Plant("data order", "data train", "folder", other_names),
    "a pixel": Plant("data byte", "data train", "folder", one_pixel),
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
    "another optax": Plant("dependency", "versions optax", act=other_optax("9.9.9")),
    "an edited optax": Plant("dependency", "versions optax", act=other_optax(None)),
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


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return world_file.make(tmp_path_factory.mktemp("world"))


def decoys(world):
    """What differs in every pair besides the plant and moves no number; a folder of packages."""
    edit(world.lab / "beside.py", "1", "2")
    for file in ("models/vit.py", "report/words.py"):
        edit(world.tree / "jaxdl" / file, "import annotations\n", "import annotations\n\nA = 1\n")
    packages = world.top / "packages"
    (packages / "another_one-1.2.dist-info").mkdir(parents=True, exist_ok=True)
    return packages, {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


@pytest.fixture
def planted(world):
    """Plants one, with the decoys, and runs it; the run without them, and the run with them."""

    def plant(name):
        plant = PLANTS[name]
        base = world.base(plant.variant)
        path = plant.act(world) if plant.act else None
        packages, more = decoys(world)
        path = os.pathsep.join(str(p) for p in (path, packages) if p)
        named = name.replace(" ", "-")
        return base, world.run(named, plant.variant, *plant.edits, path=path, **more, **plant.env)

    yield plant
    world_file.restore(world)


def test_there_are_two_of_each_of_ten_kinds():
    kinds = [plant.kind for plant in PLANTS.values()]
    assert len(kinds) == 20 and {kinds.count(kind) for kind in kinds} == {2}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTS)
def test_a_plant_is_named_first(name, planted):
    found = explain(*planted(name))
    assert found.parting is not None, "the plant moved nothing"
    first = found.likely[0]
    assert f"{first.kind} {first.name}".startswith(PLANTS[name].names), found.likely
    told = {d.name for d in (*found.likely, *found.idle)}
    assert {"OMP_NUM_THREADS", "another-one", "PYTHONPATH"} <= told  # the decoys were there


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["base", "table", "folder"])
def test_nothing_is_named_where_nothing_is_planted(variant, world):
    found = explain(world.base(variant), world.run(f"again-{variant}", variant))
    assert (found.likely, found.parting) == ((), None)
