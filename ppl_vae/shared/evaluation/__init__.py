"""Measurements of trained pairs in numpy, for both backends."""
