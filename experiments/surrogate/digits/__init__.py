"""The surrogate of a digit classifier: data, training, evaluation."""
