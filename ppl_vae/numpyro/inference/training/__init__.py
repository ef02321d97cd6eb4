"""Training: `fit` and its compiled epochs."""
