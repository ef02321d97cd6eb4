"""Data-parallel training by several processes."""
