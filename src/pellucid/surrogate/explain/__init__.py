"""Explanations of a classifier through its surrogate, local and global."""
