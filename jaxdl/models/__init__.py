"""One file per family of models; `zoo` is the only table from names to constructors."""
