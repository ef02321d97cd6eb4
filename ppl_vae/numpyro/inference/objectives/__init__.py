"""Objectives, as `ppl_vae.inference.objectives`."""
