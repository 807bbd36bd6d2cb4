"""Concepts against the straightforward way and Captum's TCAV."""
