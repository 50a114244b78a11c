"""Host transforms: their laws, and their errors."""

import dataclasses

import numpy as np
import pytest

from jaxdl.core.errors import InputError
from jaxdl.data import Chain, Crop, Digits, Draws, Flip, Normalize, Scale

N = 200
RNG = Draws(0, np.arange(N))
IMAGES = np.random.default_rng(0).integers(1, 256, (N, 6, 5, 3)).astype(np.uint8)
EVERY = [
    Scale(0, 255, -1, 1),
    Normalize((1, 2, 3), 2.0),
    Crop(2),
    Flip(),
    Chain((Crop(1), Flip(), Scale(0, 255))),
]


def examples():
    return {"image": IMAGES, "label": np.arange(N, dtype=np.int32)}


@pytest.mark.parametrize("transform", EVERY, ids=lambda t: type(t).__name__)
def test_every_transform_is_a_pure_per_example_function(transform):
    given = examples()
    out = transform(given, RNG)
    assert given["image"] is IMAGES and np.array_equal(out["label"], given["label"])
    assert np.array_equal(IMAGES, np.random.default_rng(0).integers(1, 256, IMAGES.shape))
    assert out["image"].shape == IMAGES.shape
    half = {name: leaf[100:] for name, leaf in given.items()}
    alone = transform(half, Draws(0, np.arange(100, N)))
    assert np.array_equal(out["image"][100:], alone["image"])
    assert hash(transform) == hash(dataclasses.replace(transform))


def test_scale_maps_the_ends_and_the_middle():
    x = {"image": np.array([[0, 8, 16]], np.uint8)}
    for transform, want in ((Scale(0, 16), [0, 0.5, 1]), (Scale(0, 16, -1, 1), [-1, 0, 1])):
        out = transform(x, RNG)["image"]
        assert out.dtype == np.float32 and out.tolist() == [want]


def test_normalize_by_channel_and_by_scalar():
    out = Normalize((10, 20, 30), (1, 2, 4))(examples(), RNG)["image"]
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[..., 2], (IMAGES[..., 2] - 30.0) / 4)
    twice = Chain((Scale(0, 255), Normalize(0.5, 0.5)))(examples(), RNG)["image"]
    np.testing.assert_allclose(twice, IMAGES / 127.5 - 1, atol=1e-6)


def test_crop_shifts_by_what_was_drawn_and_fills_with_zeros():
    out = Crop(1)(examples(), RNG)["image"]
    padded = np.pad(IMAGES, [(0, 0), (1, 1), (1, 1), (0, 0)])
    shifts = set()
    for image, room in zip(out, padded, strict=True):
        found = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if np.array_equal(image, room[y : y + 6, x : x + 5])
        ]
        assert len(found) == 1
        shifts.update(found)
    assert len(shifts) == 9
    assert np.array_equal(Crop(0)(examples(), RNG)["image"], IMAGES)


@pytest.mark.row("D-027")
def test_flip_twice_is_the_identity_and_half_are_flipped():
    once = Flip()(examples(), RNG)["image"]
    flipped = (once != IMAGES).any(axis=(1, 2, 3))
    assert 70 < flipped.sum() < 130
    assert np.array_equal(once[flipped], IMAGES[flipped][:, :, ::-1])
    again = Flip()({"image": once}, RNG)["image"]
    assert np.array_equal(again, IMAGES)
    assert not any(isinstance(t, Flip) for t in Digits().train_transform)


def test_leaves_move_together():
    both = {"image": IMAGES, "target": IMAGES[..., 0]}
    out = Chain((Crop(2, ("image", "target")), Flip(0.5, ("image", "target"))))(both, RNG)
    assert np.array_equal(out["image"][..., 0], out["target"])


def test_a_chain_draws_anew_for_each_part():
    chosen = Draws(0, np.arange(N))
    twice = Chain((Flip(), Flip()))(examples(), chosen)["image"]
    assert (twice != IMAGES).any()
    assert Chain()(examples(), RNG)["image"] is IMAGES


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scale(1, 1), "must differ"),
        (lambda: Normalize(0, 0), "positive"),
        (lambda: Normalize((0, 0), (1, 1, 1)), "differ in length"),
        (lambda: Normalize((0, 0), 1)(examples(), RNG), "2 means"),
        (lambda: Crop(-1), "negative"),
        (lambda: Flip(1.5), r"\[0, 1\]"),
        (lambda: Flip(leaves=("imgae",))(examples(), RNG), "did you mean 'image'"),
    ],
)
def test_errors(make, message):
    with pytest.raises(InputError, match=message):
        make()
