"""What is asked of the surrogate of a classifier of real images."""
