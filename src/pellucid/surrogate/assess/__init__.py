"""How good a surrogate is: fidelity, realism, control of each concept and leakage."""
