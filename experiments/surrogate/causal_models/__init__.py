"""Graphs and effects against known causal models."""
