"""Distributions that NumPyro lacks, as `ppl_vae.models.distributions`."""
