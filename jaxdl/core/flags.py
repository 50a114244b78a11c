"""Variables of the environment: which may matter to a run's numbers, and what is kept of them."""

from __future__ import annotations

import re

from jaxdl.core.repository import digest_of

PREFIXES = (
    *("JAX_", "JAXDL_", "FLAX_", "CHEX_", "XLA_", "TPU_", "LIBTPU_", "TFDS_"),
    # Others share TF_: Terraform's variables may be secrets.
    *("TF_CPP_", "TF_CUDNN_", "TF_DETERMINISTIC", "TF_DISABLE_", "TF_ENABLE_", "TF_FORCE_"),
    *("TF_GPU_", "TF_NUM_", "TF_USE_", "TF_XLA_"),
    *("NVIDIA_", "CUDA_", "CUDNN_", "CUBLAS_", "NCCL_", "OMP_", "KMP_", "GOMP_", "MKL_"),
    *("OPENBLAS_", "MALLOC_", "LD_PRELOAD", "PYTHONHASHSEED", "PYTHONPATH"),
)
"""How names of the environment begin that may matter."""
SECRET = re.compile(
    r"KEY|TOKEN|SECRET|PASS|PWD|CREDENTIAL|AUTH|BEARER|COOKIE|SESSION|PRIVATE|WEBHOOK|DSN|SALT"
    r"|SIGNATURE|(?:^|_)(?:PAT|PIN|JWT|OTP|SAS|CERT|PW)(?:_|$)"
)
"""In names of what may be a secret."""
ADDRESS = re.compile(r"://[^/\s]*@|://\S*[?&]\w+=")
"""In values: an address with a password, or with what follows a question mark."""
DIGEST = "digest "
"""How what is kept of a variable begins that is not jax's or another library's."""


def kept(name: str, value: str) -> str | None:
    """What a passport keeps of a variable: its value, a digest of it, or None for nothing.

    What nobody but the experiment's code reads may hold anything, so it is a digest.
    """
    if SECRET.search(name.upper()) or ADDRESS.search(value):
        return None
    return value if name.startswith(PREFIXES) else DIGEST + digest_of(value.encode())[:8]
