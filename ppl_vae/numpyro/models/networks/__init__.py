"""See `ppl_vae.models.networks`."""
