"""Many runs of one experiment: variants and seeds side by side."""

from jaxdl.search.ablation import Ablation
from jaxdl.search.cells import Cell
from jaxdl.search.jobs import Pool
from jaxdl.search.plan import Plan, make_plan

__all__ = ["Ablation", "Cell", "Plan", "Pool", "make_plan"]
