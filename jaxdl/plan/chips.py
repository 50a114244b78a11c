"""What a device of each kind can do at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """Peaks of one JAX device."""

    flops: float
    """bfloat16 FLOP/s of matrix products."""
    memory: float
    """Bytes of its memory that a program may use."""
    memory_bandwidth: float
    """Bytes/s."""
    network: float
    """Bytes/s that it can send to its neighbours over all links together."""


# TPUs: Austin et al. 2025, "How to Scale Your Model", chapter 2 (links of 4.5e10 or 9e10 bytes/s
# each way; 4 of them in a two-dimensional torus, 6 in a three-dimensional one), and the memory that
# libtpu 0.0.51 leaves to programs. A v4 chip shows two devices, which share what it has.
# H200: NVIDIA's data sheet (dense bfloat16; NVLink 900 GB/s both ways).
CHIPS = {
    "TPU v4": Chip(1.375e14, 15.25 * 2**30, 6e11, 1.35e11),
    "TPU v5 lite": Chip(1.97e14, 15.75 * 2**30, 8.1e11, 1.8e11),
    "TPU v5": Chip(4.59e14, 95.73 * 2**30, 2.8e12, 5.4e11),
    "TPU v6 lite": Chip(9.2e14, 31.24 * 2**30, 1.6e12, 3.6e11),
    "NVIDIA H200": Chip(9.89e14, 151397597184, 4.8e12, 4.5e11),
}
"""By `device_kind`."""
