"""Folders of images: every kind decodes, damage is found before training, splits stay put."""

import io
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxdl.core import dump, load
from jaxdl.core.errors import InputError
from jaxdl.core.loading import load_file
from jaxdl.data import ImageFolder
from jaxdl.data.folder import _warn
from jaxdl.data.images import decode, readable
from jaxdl.train import fit

toy = load_file(__file__.replace("test_folder", "toy"))
CLASSES = ("east", "north", "south", "west")


def encoded(pixels, kind="png", mode=None, **how):
    file = io.BytesIO()
    Image.fromarray(pixels, mode=None).convert(mode or Image.fromarray(pixels).mode).save(
        file, kind, **how
    )
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """240 toy images in four classes."""
    pixels, labels = toy.images(240, 0)
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        place = tmp_path / "set" / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(place / f"{i}.png")
    _warn.cache_clear()
    return tmp_path / "set"


def data(folder, **changes):
    fractions = {"valid_fraction": 0.2, "test_fraction": 0.2}
    shape = {"size": toy.SIDE, "grey": True, "batch": 32, "eval_batch": 32}
    return ImageFolder(str(folder), **fractions | shape | changes)


def splits(config):
    return [config.train(), config.valid(), config.test()]


def names(source):
    return {path.name for path, *_ in source.files}


def test_trains_from_disk(folder, tmp_path):
    config = data(folder)
    assert load(dump(config)) == config
    result = fit(toy.experiment(config), tmp_path / "run").result
    assert result.metrics["test"]["accuracy"] > 0.9  # chance is 0.25


def test_a_hash_of_the_name_splits(folder):
    before = splits(data(folder))
    parts = [names(source) for source in before]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 240
    assert 110 < len(parts[0]) < 175 and all(25 < len(part) < 75 for part in parts[1:])
    assert before[0].sizes == {"label": 4} and before[0].classes == CLASSES
    shutil.copy(
        folder / "east" / next(iter(folder.glob("east/*"))).name, folder / "west" / "new.png"
    )
    after = splits(data(folder))
    assert [part - {"new.png"} for part in map(names, after)] == parts, "no image moves"
    changed = [a.fingerprint != b.fingerprint for a, b in zip(after, before, strict=True)]
    assert sum(changed) == 1


def test_named_splits_share_their_classes(folder, tmp_path):
    root = tmp_path / "named"
    for split in ("train", "val"):
        shutil.copytree(folder, root / split)
    shutil.rmtree(root / "val" / "north")
    train, valid, test = splits(data(root))
    assert len(train) == 240 and test is None
    for source in (train, valid):
        assert all(CLASSES[label] == path.parent.name for path, label, _ in source.files)
    (root / "val" / "up").mkdir()
    with pytest.raises(InputError, match=r"val.up is no class of training: east, north"):
        data(root).valid()


def test_what_could_be_taken_for_a_class_or_an_image_is_not(folder, tmp_path):
    root = tmp_path / "named"
    for split in ("Train", "test"):
        shutil.copytree(folder, root / split)
    assert data(root).train().classes == CLASSES
    (root / "Train").rename(root / "val")
    with pytest.raises(InputError, match="has test, val, but no 'train'"):
        data(root).train()
    shutil.copytree(root / "val", root / "train")
    (root / "valid").mkdir()
    with pytest.raises(InputError, match="are both valid"):
        data(root).train()
    shutil.copytree(folder / "east", folder / "east" / ".checkpoints")
    (folder / "west" / "album.png").mkdir()
    assert sum(len(source) for source in splits(data(folder))) == 240
    (folder / "west" / "lost.png").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"links to nothing: .*lost\.png"):
        data(folder).train()


def test_damaged_images_are_named_or_left_out_and_counted(folder, caplog):
    rng = np.random.default_rng(0)
    whole = encoded(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8), "jpeg")
    (folder / "east" / "grey.jpg").write_bytes(encoded(np.full((40, 30), 90, np.uint8), "jpeg"))
    (folder / "east" / "cut.jpg").write_bytes(whole[: len(whole) // 2])  # its header is good
    (folder / "west" / "text.png").write_bytes(b"nothing")
    (folder / "west" / "notes.txt").write_bytes(b"no image by its name")
    with pytest.raises(InputError, match=r"2 of 243 .*east/cut.jpg .*truncated.*west/text.png"):
        data(folder).train()
    config = data(folder, corrupt="skip", grey=False)
    with caplog.at_level(logging.WARNING):
        found = set.union(*(names(source) for source in splits(config)))
    assert len(found) == 241 and "grey.jpg" in found and not {"cut.jpg", "text.png"} & found
    assert "2 of 243 images are damaged" in caplog.text and "notes.txt" in caplog.text
    assert len(caplog.records) == 2, "each is said once"
    for source in splits(config):
        for i, (path, *_) in enumerate(source.files):
            image = source[i]["image"]
            assert image.shape == (8, 8, 3) and image.dtype == np.uint8
            assert path.name != "grey.jpg" or np.abs(image.astype(int) - 90).max() <= 1


def test_only_changed_images_are_checked_again(folder, monkeypatch):
    seen = []
    monkeypatch.setattr("jaxdl.data.folder.readable", lambda content: seen.append(content) or "")
    data(folder).train()
    data(folder).valid()
    assert len(seen) == 240
    first = folder / "east" / "changed.png"
    first.write_bytes(b"not an image, unnoticed here")
    train, *others = splits(data(folder))
    assert len(seen) == 241
    (source,) = [s for s in (train, *others) if "changed.png" in names(s)]
    place = [path.name for path, *_ in source.files].index("changed.png")
    with pytest.raises(InputError, match=r"changed\.png has changed since it was checked"):
        source[place]


def test_every_kind_of_pixel_becomes_eight_bits_of_colour():
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (6, 4, 3)).astype(np.uint8)
    wide = rng.integers(0, 2**16, (6, 4)).astype(np.uint16)
    assert np.array_equal(decode(encoded(colour)), colour)
    assert np.array_equal(decode(encoded(colour[..., 0])), colour[..., :1].repeat(3, -1))
    assert np.array_equal(decode(encoded(wide), grey=True)[..., 0], wide >> 8)
    assert np.array_equal(decode(encoded(wide, "tiff"), grey=True)[..., 0], wide >> 8)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    assert np.array_equal(decode(encoded(colour, exif=turned)), np.rot90(colour, -1))
    clear = np.dstack([colour, np.where(np.arange(4) < 2, 0, 255) * np.ones((6, 1))]).astype(
        np.uint8
    )
    found = decode(encoded(clear))
    assert (found[:, :2] == 255).all() and np.array_equal(found[:, 2:], colour[:, 2:])
    for mode in ("P", "LA", "1", "CMYK"):
        assert decode(encoded(colour, "tiff", mode)).shape == (6, 4, 3)


def test_the_centred_square_is_resized():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 200
    for kind in ("png", "jpeg"):
        found = decode(encoded(pixels, kind), size=10).astype(int)
        assert found.shape == (10, 10, 3) and np.abs(found[2:-2, 2:-2] - 200).max() < 6


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp"])
def test_a_file_cut_short_is_found(kind):
    content = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8), kind)
    assert readable(content) == ""
    assert readable(content[: len(content) * 2 // 3]) and readable(content[:20]) and readable(b"")


def test_a_flipped_byte_in_a_png_is_found():
    content = bytearray(encoded(np.zeros((64, 64, 3), np.uint8)))
    content[len(content) // 2] ^= 1
    assert readable(bytes(content))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 0}, "size=0"),
        ({"valid_fraction": 0.9}, "must leave some"),
        ({"corrupt": "skp"}, "did you mean 'skip'"),
    ],
)
def test_bad_settings(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        data(tmp_path, **changes)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        data(tmp_path / "absent").train()
    with pytest.raises(InputError, match="one per class"):
        data(tmp_path).train()
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="has no images"):
        data(tmp_path).train()
