"""The tag experiment: networks that rely on a tag more or less, and which explanation says how much."""
