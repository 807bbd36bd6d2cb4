"""The surrogate of a classifier of faces."""
