"""GLANCE on digits: training, fidelity, effectiveness."""
