"""What the surrogate is compared with: StylEx's attribute search on its generator, and measures of disentanglement."""
