"""A copy of jaxdl under git, an experiment and its data, in which causes can be planted."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = """
import os
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jaxdl.core import Experiment
from jaxdl.core.loading import load_file
from jaxdl.data import ArraySource, Crop, Digits, Flip, ImageFolder, Scale, Splits
from jaxdl.models.mlp import MLP
from jaxdl.optim import SGD, AdamW, Constant, Cosine
from jaxdl.tasks import Classification
from jaxdl.train import Evaluate, Log

helper = load_file(__file__.replace("exp.py", "helper.py"))
NOISE = np.random.default_rng(11).normal(size=(80, 8, 8)).astype(np.float32)
FIRST = 0
SCALE = float(os.environ.get("MY_SCALE", "1"))


@dataclass(frozen=True)
class Table(Splits):
    batch: int = 16

    def train(self):
        x = [self.small(image) for image in np.load("table.npy")]
        return ArraySource({"image": SCALE * np.stack(x), "label": np.arange(len(x)) % 10})

    def small(self, image):
        picture = Image.fromarray(image).resize((5, 5), Image.Resampling.BOX)
        return np.asarray(picture, np.float32)[..., None] / 16

    def plan(self, split):
        return lambda seed, e: (e + FIRST) % 80


@dataclass(frozen=True)
class Noisy(Splits):
    batch: int = 16

    def train(self):
        x = helper.shrink(np.load("table.npy") + NOISE)
        return ArraySource({"image": x, "label": np.arange(len(x)) % 10})

    def transform(self, split):
        return helper.TRANSFORM


def base():
    return Experiment(
        model=MLP(widths=(16,), classes=10),
        task=Classification(),
        data=Digits(batch=64, eval_batch=120, train_transform=(Scale(0, 16), Crop(1))),
        optim=AdamW(peak_lr=1e-2, decay=0.1, schedule=Constant()),
        steps=5,
        seed=0,
        hooks=(Log(every=1), Evaluate(every=5)),
    )


ABLATIONS = {
    "table": {"data": Table(), "hooks": (Log(every=1),)},
    "folder": {"data": ImageFolder("images", size=6, batch=16)},
    "noisy": {"data": Noisy(), "hooks": (Log(every=1),), "optim": SGD(peak_lr=0.02)},
    "drop": {"model.dropout": 0.3, "optim": AdamW(peak_lr=3e-3, schedule=Cosine(warmup=2))},
}
"""
HELPER = """
import os

import numpy as np
from PIL import Image

from jaxdl.data import Normalize

SIDE = int(os.environ.get("IMAGE_SIDE", "6"))
TRANSFORM = Normalize(5.0, 4.0)


def shrink(images):
    return np.stack([one(image) for image in images])[..., None]


def one(image):
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def nobody_calls_it(x):
    return x + 1
"""
TRAIN = """
import sys
from pathlib import Path
from jaxdl.core.loading import load_experiment
from jaxdl.train import fit
spec, run, *edits = sys.argv[1:]
fit(load_experiment(spec, edits)[0], Path(run), source=" ".join([spec, *edits]))
"""
"""What `jaxdl train` does, but for its pictures and tables."""
GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@y")


@dataclass
class World:
    """The tree, the folder of the experiment, and the runs made there."""

    top: Path
    runs: dict[str, Path] = field(default_factory=dict)

    @property
    def tree(self) -> Path:
        """The copy of jaxdl's repository."""
        return self.top / "tree"

    @property
    def lab(self) -> Path:
        """Where the experiment and its data are."""
        return self.top / "lab"

    def run(self, name: str, variant: str, *edits: str, path: str = "", **env: str) -> Path:
        """Trains in a process of its own and returns the run's directory."""
        run = self.top / "runs" / name
        done = self.python("-c", TRAIN, f"exp.py:{variant}", run, *edits, path=path, **env)
        assert done.returncode == 0, done.stderr
        return run

    def python(self, *argv, path: str = "", **env: str) -> subprocess.CompletedProcess:
        """Runs Python in the lab, with the copy of jaxdl, and first of all what is in `path`."""
        paths = [*filter(None, [path]), str(self.tree)]
        more = {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        more["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        command = [sys.executable, "-P", *map(str, argv)]
        env = os.environ | more | env
        return subprocess.run(command, cwd=self.lab, env=env, capture_output=True, text=True)

    def base(self, variant: str) -> Path:
        """The run in which nothing is planted."""
        if variant not in self.runs:
            self.runs[variant] = self.run(f"base-{variant}", variant)
        return self.runs[variant]


def make(top: Path) -> World:
    """A fresh world."""
    world = World(top)
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("jaxdl", "kernels"):
        shutil.copytree(ROOT / name, world.tree / name, ignore=skip)
    (world.tree / "jaxdl" / "kernels").symlink_to("../kernels")
    world.lab.mkdir()
    (world.lab / "exp.py").write_text(EXPERIMENT)
    (world.lab / "helper.py").write_text(HELPER)
    (world.lab / "beside.py").write_text("OTHER = 1\n")
    digits = load_digits()
    np.save(world.lab / "table.npy", digits.images[:80].astype(np.uint8))
    for i in range(100):
        folder = world.lab / "images" / ("train" if i < 80 else "valid") / str(i % 10)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 15).astype(np.uint8)).save(folder / f"{i:03}.png")
    for place in (world.tree, world.lab):
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
            subprocess.run([*GIT, *command], cwd=place, check=True)
    return world


def restore(world: World) -> None:
    """Takes out what was planted."""
    for place in (world.tree, world.lab):
        subprocess.run([*GIT, "checkout", "-q", "."], cwd=place, check=True)
        subprocess.run([*GIT, "clean", "-fdq", "-e", "__pycache__"], cwd=place, check=True)


def edit(file: Path, old: str, new: str) -> None:
    """Replaces the first `old` of a file, which must be there."""
    text = file.read_text()
    assert old in text, (file, old)
    file.write_text(text.replace(old, new, 1))


def package(top: Path, name: str, version: str | None, file: str, old: str, new: str) -> Path:
    """A folder with an edited copy of an installed package, under this version."""
    from importlib import metadata

    found = metadata.distribution(name)
    source = Path(str(found.locate_file(name)))
    place = top / f"{name}-{version}"
    shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    info = next(source.parent.glob(f"{name}-*.dist-info"))
    to = place / (info.name if version is None else f"{name}-{version}.dist-info")
    shutil.copytree(info, to)
    told = (to / "METADATA").read_text()
    if version:
        (to / "METADATA").write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", told))
    edit(place / name / file, old, new)
    return place


def other_optax(world: World, version: str | None) -> Path:
    """A folder with an edited optax, under this version."""
    term = "(jnp.sqrt(v + eps_root) + eps)"
    edited = "_src/transform.py", term, term[:-1] + " + 1e-3)"
    return package(world.top, "optax", version, *edited)


def other_pixel(world: World, name: str = "train/0/000.png") -> None:
    """Flips one bit of one image."""
    path = world.lab / "images" / name
    pixels = np.array(Image.open(path))
    pixels[3, 3] ^= 64  # a lower bit may be lost as the image is made smaller
    Image.fromarray(pixels).save(path, "png")
