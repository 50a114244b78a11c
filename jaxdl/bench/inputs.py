"""Images per second from the source to a batch on the host, beside other loaders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from jaxdl.bench.installed import missing
from jaxdl.bench.turns import Outcome, Peer, take_turns

FLOOR = "numpy"
PEERS = "jaxdl.bench.peers.inputs"
OTHERS = {"grain": f"{PEERS}:grained", "torch": "jaxdl.bench.peers.torch:inputs"}
PHOTO = (500, 375)
"""Width and height of a JPEG, as most of ImageNet's."""


@dataclass(frozen=True)
class Task:
    """What is loaded, and what becomes of an image."""

    images: int
    batch: int
    size: int
    note: str


TASKS = {
    "arrays": Task(
        25_600, 128, 32, "32x32 uint8 in memory: crop after 4 pixels of padding, flip, normalise"
    ),
    "jpeg": Task(256, 32, 224, "500x375 JPEG files: centre square resized to 224, flip, normalise"),
}


def measure_input(
    name: str,
    *,
    task: Task | None = None,
    peers: bool = False,
    rounds: int = 5,
    seconds: float = 2.0,
    one_core: bool = False,
) -> Iterator[dict[str, Any]]:
    """One record per loader of the `TASKS` entry `name`, or of `task` in its place.

    The loaders are jaxdl's `batches`, the floor `numpy` (one image after the other in a loop; for
    arrays also `numpy, vectorised`) and, with `peers`, grain and torch; all in one process, in the
    order of a shuffle. `cpu_ratio` is CPU time relative to the floor, median over rounds.
    """
    task = task or TASKS[name]
    with TemporaryDirectory() as folder:
        if name == "jpeg":
            _write_photos(Path(folder), task.images)
        kwargs = {"task": name, "batch": task.batch, "size": task.size}
        kwargs |= {"images": task.images, "folder": folder}
        chosen = {"jaxdl": f"{PEERS}:ours", FLOOR: f"{PEERS}:looped"}
        if name == "arrays":
            chosen["numpy, vectorised"] = f"{PEERS}:vectorised"
        chosen |= OTHERS if peers else {}
        absent = {peer: told for peer in chosen if (told := missing(peer))}
        outcomes = take_turns(
            [Peer(peer, at, kwargs) for peer, at in chosen.items() if peer not in absent],
            rounds=rounds,
            seconds=seconds,
            one_core=one_core,
        )
    for peer in chosen:
        record = {"bench": "input", "workload": name, "peer": peer}
        if peer in absent:
            yield record | {"missing": absent[peer]}
        elif outcomes[peer].error:
            yield record | {"error": outcomes[peer].error}
        else:
            yield record | _measured(outcomes[peer], outcomes[FLOOR], task.batch, one_core)
            if peer == "jaxdl":
                yield record | {"note": task.note}


def _measured(outcome: Outcome, floor: Outcome, batch: int, one_core: bool) -> dict[str, Any]:
    found = {
        "images_per_s": batch / outcome.median("wall"),
        "images_per_cpu_s": batch / outcome.median("cpu"),
        "compile_s": outcome.info["compile_s"],
        "peak_rss_mb": outcome.turns[-1].rss,
        "rounds": len(outcome.turns),
        "one_core": one_core,
    }
    return found if floor.error else found | {"cpu_ratio": outcome.ratio(floor, "cpu")}


def _write_photos(folder: Path, count: int) -> None:
    """JPEG files with structure and noise, in two classes."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(PHOTO, Image.Resampling.BICUBIC), np.int16)
        noisy = (smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        place = folder / "train" / str(i % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(place / f"{i:04d}.jpg", quality=90)
