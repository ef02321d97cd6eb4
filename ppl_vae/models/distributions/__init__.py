"""Distributions that are missing in torch and Pyro."""
