"""Questions to a twin: what would the image look like, what counts, what flips it, and may it be believed."""
