"""Training: `fit` and the compiled epochs it runs."""
