"""What a person sees: of a run curves and sample predictions, of several a comparison."""

from jaxdl.report.curves import CURVES, draw_curves, series
from jaxdl.report.page import write_report
from jaxdl.report.runs import Cell, find_runs
from jaxdl.report.samples import SAMPLES, captions, draw_samples
from jaxdl.report.study import Study, study

__all__ = [
    "CURVES",
    "SAMPLES",
    "Cell",
    "Study",
    "captions",
    "draw_curves",
    "draw_samples",
    "find_runs",
    "series",
    "study",
    "write_report",
]
