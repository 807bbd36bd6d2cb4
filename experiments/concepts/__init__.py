"""Experiments on concepts: known truth, real textures, and the failures of the published algorithm with their fixes."""
