"""One GPT on eight devices, divided in eight ways: what does each cost in memory and in messages?

Expect: of steps compiled for TPU v5e:2x4 (libtpu 0.0.51), none of them run; MB of one device, and
        its messages in a step against the least that the strategy needs. A step takes at least as
        long as the longest of arithmetic (0.066 ms), state and messages at the chip's peak rates.

                      parameters  optimizer   peak   sends  least  ratio  at least
        base (data)        13.03      26.06  50.61   11.40  11.40   1.00  0.097 ms
        zero1              13.03       3.26  26.03   17.18  17.10   1.00  0.095 ms
        fsdp                1.67       3.34  15.15   17.43  16.91   1.03  0.097 ms
        host                1.67    on host  16.46   17.43  16.91   1.03  0.097 ms
        tensor              3.38       6.75  21.39   36.32  36.32   1.00  0.202 ms
        sequence            3.38       6.75  22.44   58.34  36.32   1.61  0.324 ms
        fsdp_tensor         1.67       3.35  16.18   19.15  18.85   1.02  0.106 ms
        pipeline            3.55       7.11  21.09   10.84   4.47   2.43  0.106 ms

        11 to 40 seconds to compile each, on 2 busy CPU cores. `host` keeps 3.34 MB per device in
        the host's memory; they pass through the device's in the update. Before the loss picked
        labels without a gather: fsdp for h200:8 28.02 MB at its peak, ratio 1.01.
Why:    a gradient costs twice its bytes where all hold the parameter; dividing the parameter costs
        half as much again, and an eighth of the memory. The tensor axis sends activations, so that
        more tokens cost more and more parameters do not. `sequence` needs as much as `tensor`, but
        XLA adds all-to-alls (16.6 MB) to what it gathers and scatters. `pipeline` sends 1.14 of the
        least along pipe (16 micro-batches on 4 stages: the bubble's messages carry nothing) and
        4.4 along data, where XLA adds up the gradients of every micro-batch by itself. So it does
        without a pipeline: data=8 with accumulate=4 sends 4.00 times the least.
Else:   XLA:TPU does not always find the least, and whether it scatters gradients depends on shapes.
        fsdp=16 on 16 devices, 2 rows each, all-reduces all of them, 1.36 times the least for depth
        4: so on v6e:4x4, v5p:2x2x4 and v5e:4x4, there at widths 256 and 2048 (no padding of shards
        is to blame) and whatever the options enable_all_reduce_scatter_fusion,
        prefer_einsum_reduce_scatter and padding_overhead_threshold_with_copy_for_reduce_scatter of
        xla_tpu say. With 8 rows each it
        sends permutations in place of gathers and scatters; fsdp=32, and fsdp=16 beside data=2, on
        v5e:4x8 scatter.
        A GPT of 7 billion parameters on v5p:4x4x4 with fsdp=16, model=4: 5.99 GB of 95.7 GiB at its
        peak, 1.00 times the least on model, about 1.13 on fsdp.
        GPT-3 (175 billion parameters, batch 512 x 2048) on v5p:8x8x8 with fsdp=64, model=8: fits,
        4.17 GB of state and 50.98 GB at its peak, nothing large on every device, 1.00 times the
        least on model and 1.03 on fsdp, at least 5.9 s a step by its 1.38e18 FLOPs; 435 s to
        compile on 2 cores under a load of 10.
Run:    jaxdl plan experiments/parallel/strategies.py:fsdp --on v5e:2x4 --audit
        (XLA_FLAGS=--xla_force_host_platform_device_count=8 lets `jaxdl train` take the same mesh.)
"""

from jaxdl.core import Experiment
from jaxdl.data import Text
from jaxdl.models.gpt import GPT
from jaxdl.optim import AdamW, Cosine
from jaxdl.tasks import LanguageModel
from jaxdl.train import Evaluate, Log, Save


def base() -> Experiment:
    """A GPT of 4 blocks of width 256 on 8 devices that each hold all of it."""
    return Experiment(
        model=GPT(vocab=256, width=256, depth=4, heads=8, seq=128, remat="full"),
        task=LanguageModel(),
        data=Text(files=("*.md", "jaxdl/**/*.py", "kernels/**/*.md"), seq=128, batch=32),
        optim=AdamW(
            peak_lr=1e-3, b2=0.99, decay=0.1, clip=1.0, schedule=Cosine(warmup=50, end=0.1)
        ),
        steps=500,
        precision="bf16",
        mesh={"data": 8},
        hooks=(Log(every=25), Evaluate(every=100), Save(every=100)),
    )


ABLATIONS = {
    "zero1": {"rules": "dp+zero1"},
    "fsdp": {"mesh": {"fsdp": 8}},
    "tensor": {"mesh": {"data": 2, "model": 4}},
    "sequence": {"mesh": {"data": 2, "model": 4}, "rules": "auto+sp"},
    "fsdp_tensor": {"mesh": {"fsdp": 4, "model": 2}},
    "pipeline": {"mesh": {"pipe": 4, "data": 2}, "accumulate": 16},
    "host": {"mesh": {"fsdp": 8}, "optimizer_memory": "host"},
}
