"""One process of the multi-process loader test: prints what its devices hold, as JSON.

Run by test_multihost.py: python host.py PORT PROCESSES PROCESS
"""

import hashlib
import json
import sys

import jax
import numpy as np

from jaxdl.data import ArraySource, Crop, batches

BATCH, ASKED, SEED = 16, (0, 1, 5, 2, 3), 11


def loader(**kw):
    """Batches of 37 noise images, each cropped by its own draws; 3 epochs, the last one ragged."""
    rng = np.random.default_rng(0)
    arrays = {"image": rng.random((37, 4, 4, 1), np.float32), "id": np.arange(37)}
    return batches(ArraySource(arrays), batch=BATCH, seed=SEED, transform=Crop(1), epochs=3, **kw)


def digest(leaf):
    """sha256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(leaf)).hexdigest()


def main(port, processes, process):
    """Joins the others and prints [batch, leaf, start, stop, digest] of every shard held here."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", processes, process)
    get = loader(mesh=jax.make_mesh((jax.device_count(),), ("data",)))
    held = []
    for n in ASKED:
        for name, leaf in get(n).items():
            assert leaf.shape[0] == BATCH and not leaf.is_fully_addressable
            for shard in leaf.addressable_shards:
                start, stop, _ = shard.index[0].indices(BATCH)
                held.append([n, name, start, stop, digest(shard.data)])
    print(json.dumps(held), flush=True)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
