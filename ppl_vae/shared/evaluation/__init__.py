"""Measurements of trained model/guide pairs in numpy, for both backends."""
