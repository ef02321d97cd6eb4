"""Code that both backends use: numpy and plain Python, neither torch nor jax."""
