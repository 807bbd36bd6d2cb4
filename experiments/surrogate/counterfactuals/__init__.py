"""Counterfactuals against StylEx and plain latent descent."""
