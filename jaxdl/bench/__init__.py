"""Measurements: the step, the loop and the input, beside other frameworks in one run."""
