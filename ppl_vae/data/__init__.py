"""Data sets: download, verify, binarise, split. Requires numpy only; imports neither torch nor jax.

The binarisation is always explicit: "dynamic" (resampled in every batch), "threshold" or "none".
"""

# Imported here, not lazily: `digits` and `mnist` have the names of their modules, which a later
# import of the module would bind to the module.
from ppl_vae.data.digits import digits
from ppl_vae.data.features import NormalFeatures
from ppl_vae.data.images import Dynamic, Images, Splits
from ppl_vae.data.labels import hide_labels
from ppl_vae.data.mnist import mnist

__all__ = ["Dynamic", "Images", "NormalFeatures", "Splits", "digits", "hide_labels", "mnist"]
