"""Evaluation of trained model/guide pairs, as `ppl_vae.inference.evaluation`."""
