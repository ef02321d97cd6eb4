"""See `ppl_vae.models.distributions`."""
