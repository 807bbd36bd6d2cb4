"""The surrogate of a published CIFAR-10 network."""
