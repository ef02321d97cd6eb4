"""Networks that return distributions, as `ppl_vae.models.networks`."""
