"""Hand-written kernels, one folder per operation; see README.md for how to add one."""
