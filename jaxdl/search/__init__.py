"""Many runs of one experiment: hyper-parameter search."""
