"""Compilation: programs as graphs of tensor operations, and what makes these fast."""
