"""Classifiers of which the decisive cue is known."""
