"""The loaders that are compared do the same to the same images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdl.bench import inputs
from jaxdl.bench.peers import inputs as loaders

VALUES = (np.arange(256, dtype=np.float32) / 255 - 0.5) / 0.25
LOADERS = [loaders.ours, loaders.looped, loaders.grained]


@pytest.fixture
def batch_of(monkeypatch):
    """The last batch that a loader made in n steps."""

    def run(loader, n=3, **kwargs):
        seen = []
        monkeypatch.setattr(loaders, "check", lambda x, *_: seen.append(np.asarray(x)))
        built, _ = loader(**kwargs)
        built(n)
        return seen[-1]

    return run


@pytest.mark.parametrize("loader", [*LOADERS, loaders.vectorised], ids=lambda f: f.__name__)
def test_arrays_are_cropped_flipped_and_normalised(loader, batch_of):
    x = batch_of(loader, task="arrays", batch=32, size=8, images=64, folder="")
    assert x.shape == (32, 8, 8, 3) and x.dtype == np.float32
    nearest = VALUES[np.abs(x[..., None] - VALUES).argmin(-1)]
    np.testing.assert_allclose(x, nearest, atol=1e-5)
    originals = (loaders.pixels(64, 8).astype(np.float32) / 255 - 0.5) / 0.25
    # Inside the padding, every image is a window of an original, some of them mirrored.
    mirrored = [_window_of(image, originals) for image in x]
    assert set(mirrored) == {False, True}


@pytest.mark.parametrize("loader", LOADERS, ids=lambda f: f.__name__)
def test_photos_become_centre_squares(loader, batch_of, tmp_path):
    inputs._write_photos(tmp_path, 8)
    with Image.open(next(tmp_path.rglob("*.jpg"))) as image:
        assert image.size == (500, 375)
    x = batch_of(loader, 2, task="jpeg", batch=4, size=16, images=8, folder=str(tmp_path))
    assert x.shape == (4, 16, 16, 3) and x.dtype == np.float32
    expected = [loaders.decode_and_flip((str(p), 16), _Never()) for p in _files(tmp_path)]
    expected += [image[:, ::-1] for image in expected]
    gaps = np.abs(x[:, None] - np.stack(expected)[None]).max((2, 3, 4)).min(1)
    assert gaps.max() < 1e-5


def test_images_per_second_come_from_the_time_of_a_batch():
    task = inputs.Task(images=64, batch=8, size=8, note="small")
    records = list(inputs.measure_input("arrays", task=task, rounds=1, seconds=0.01))
    assert [r["peer"] for r in records] == ["jaxdl", "jaxdl", "numpy", "numpy, vectorised"]
    assert records[1]["note"] == "small" and records[2]["cpu_ratio"] == 1
    assert all(
        r["images_per_s"] > 0 and r["images_per_cpu_s"] > 0 for r in records if "rounds" in r
    )


class _Never:
    """A generator whose flips never come."""

    def random(self):
        return 1.0


def _files(folder: Path):
    return sorted(folder.rglob("*.jpg"))


def _window_of(image, originals):
    """Whether `image` is a mirrored window of one of the originals; raises if it is neither."""
    n = image.shape[0]
    padded = np.pad(originals, [(0, 0), (4, 4), (4, 4), (0, 0)], constant_values=-2.0)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (n, n), axis=(1, 2))
    windows = windows.transpose(0, 1, 2, 4, 5, 3)
    for mirrored, candidate in ((False, image), (True, image[:, ::-1])):
        if np.isclose(windows, candidate, atol=1e-5).all((3, 4, 5)).any():
            return mirrored
    raise AssertionError("no window of any original")
