"""Plans: the real step compiled for hardware that need not be there, and an audit of it."""

from jaxdl.plan.audit import Audit, audit
from jaxdl.plan.compiled import Plan, compiled, shard_bytes
from jaxdl.plan.hlo import Collective, collectives
from jaxdl.plan.topology import devices

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
