"""See `ppl_vae.inference.evaluation`."""
