"""Building blocks of objectives, as `ppl_vae.inference.objectives.parts`."""
