"""Evaluation of trained model/guide pairs."""
