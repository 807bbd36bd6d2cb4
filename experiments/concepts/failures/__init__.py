"""Ways in which concept scores mislead, and their mends."""
