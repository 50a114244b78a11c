"""What a person sees of a run: curves and sample predictions, from files and host arrays."""

from jaxdl.report.curves import CURVES, draw_curves, series
from jaxdl.report.parting import compare
from jaxdl.report.samples import SAMPLES, captions, draw_samples
from jaxdl.report.why import between, explain

__all__ = [
    "CURVES",
    "SAMPLES",
    "between",
    "captions",
    "compare",
    "draw_curves",
    "draw_samples",
    "explain",
    "series",
]
