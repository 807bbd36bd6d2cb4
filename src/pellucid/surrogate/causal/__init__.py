"""The causal graph of concepts: discovery, comparison with the truth, the structural model and effects along paths."""
