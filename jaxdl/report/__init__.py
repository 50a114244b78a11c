"""What a person sees of a run: curves and sample predictions, from files and host arrays."""

from jaxdl.report.curves import CURVES, draw_curves, series
from jaxdl.report.samples import SAMPLES, captions, draw_samples

__all__ = ["CURVES", "SAMPLES", "captions", "draw_curves", "draw_samples", "series"]
