"""The papers' experiments, with their results."""
