"""Questions to a twin: what would the picture look like, what counts, what flips it, and may it be believed."""
