"""The consistency check of the two backends, number by number; the only room that imports both."""

from ppl_vae.parity.densities import assert_parity, float64
from ppl_vae.parity.initialisation import assert_same_initialisation

__all__ = ["assert_parity", "assert_same_initialisation", "float64"]
