"""Objectives: one file for each, or for close siblings."""
