"""Plans: the real step compiled for hardware that need not be there, and an audit of it."""

from jaxdl.core.topology import devices
from jaxdl.plan.audit import Audit, audit
from jaxdl.plan.compiled import Plan, compiled, shard_bytes
from jaxdl.plan.hlo import Collective, collectives

__all__ = [
    "Audit",
    "Collective",
    "Plan",
    "audit",
    "collectives",
    "compiled",
    "devices",
    "shard_bytes",
]
