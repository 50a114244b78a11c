"""One GPT on eight devices, divided in six ways: what does each cost in memory and in messages?

Expect: of steps compiled for TPU v5e:2x4 (libtpu 0.0.51), none of them run; MB of one device, and
        its messages in a step against the least that the strategy needs. A step takes at least as
        long as the longest of arithmetic (0.066 ms), state and messages at the chip's peak rates.

                      parameters  optimizer   peak   sends  least  ratio  at least
        base (data)        13.03      26.06  49.56   11.40  11.40   1.00  0.097 ms
        zero1              13.03       3.26  24.96   17.18  17.10   1.00  0.096 ms
        fsdp                1.67       3.34  14.11   17.43  16.91   1.03  0.097 ms
        tensor              3.38       6.75  20.41   36.32  36.32   1.00  0.202 ms
        sequence            3.38       6.75  21.45   58.34  36.32   1.61  0.324 ms
        fsdp_tensor         1.67       3.35  15.14   19.15  18.85   1.02  0.106 ms

        8 to 39 seconds to compile each, on 2 busy CPU cores. fsdp for h200:8: 28.02 MB at its peak,
        ratio 1.01.
Why:    a gradient costs twice its bytes where all hold the parameter; dividing the parameter costs
        half as much again, and an eighth of the memory. The tensor axis sends activations, so that
        more tokens cost more and more parameters do not. `sequence` needs as much as `tensor`, but
        XLA adds all-to-alls.
Else:   XLA:TPU does not always find the least. Over 16 devices of v5e:4x4 it all-reduces what fsdp
        need only scatter: 1.36 times the least (width 256 and 1024). A GPT of 7 billion parameters
        on v5p:4x4x4 with fsdp=16, model=4: 5.99 GB of 95.7 GiB at its peak, 1.00 times the least
        on model, about 1.13 on fsdp; 253 s to compile on 2 cores that had ten other processes.
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
}
