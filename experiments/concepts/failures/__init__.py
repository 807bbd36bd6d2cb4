"""Ways in which concept scores mislead, and what fixes them."""
