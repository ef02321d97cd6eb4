"""Data sets: fetch, verify, binarise, split. Needs numpy only; nothing here imports torch or jax.

Binarisation is named, never implied: "dynamic" (drawn anew for each batch), "threshold", "none".
"""

# Imported here and not on demand: `digits` and `mnist` share their modules' names, and a module
# that is first imported later would take that name in this package.
from ppl_vae.data.digits import digits
from ppl_vae.data.features import NormalFeatures
from ppl_vae.data.images import Dynamic, Images, Splits
from ppl_vae.data.labels import hide_labels
from ppl_vae.data.mnist import mnist

__all__ = ["Dynamic", "Images", "NormalFeatures", "Splits", "digits", "hide_labels", "mnist"]
