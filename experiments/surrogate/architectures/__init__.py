"""One surrogate for every architecture."""
