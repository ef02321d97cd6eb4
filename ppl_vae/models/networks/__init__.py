"""Networks that return distributions, and the trunks they stand on."""
