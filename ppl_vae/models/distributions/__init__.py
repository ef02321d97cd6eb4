"""Distributions that torch and Pyro lack."""
