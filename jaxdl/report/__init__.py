"""What a person sees: of a run curves and sample predictions, of several a comparison."""

from importlib import import_module
from typing import Any

WHERE = {
    "curves": ("CURVES", "draw_curves", "series"),
    "samples": ("SAMPLES", "captions", "draw_samples"),
    "runs": ("Cell", "find_runs"),
    "comparison": ("Study", "study"),
    "page": ("write_report",),
    "parting": ("compare",),
    "why": ("between", "explain"),
}
"""What each module here offers; it is imported when first asked for, since few commands need
matplotlib, and fewer SciPy and Jinja."""


def __getattr__(name: str) -> Any:
    for module, names in WHERE.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
