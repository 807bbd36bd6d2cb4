"""Simulations of every p-value and interval that pellucid shows: level, power, coverage."""
