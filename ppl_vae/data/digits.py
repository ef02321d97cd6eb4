"""scikit-learn's handwritten digits: real 8x8 scans that come with the package."""

import numpy as np

from ppl_vae.data.images import Binarisation, Images, Splits, binarise_splits

N_TEST, N_VALIDATION = 500, 200


def digits(binarisation: Binarisation = "none") -> Splits:
    """Return 1797 images of 8x8 pixels in ten classes: 1097 train, 200 validation, 500 test.

    The split is stratified and always the same (seed 0). Grey levels are counts of ink 0..16,
    divided by 16.

    Args:
        binarisation: "dynamic", "threshold" or "none"; see `ppl_vae.data.images.binarise`.

    Raises:
        ValueError: `binarisation` has another value.

    References:
        Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998.
    """
    from sklearn.datasets import load_digits

    counts, y = load_digits(return_X_y=True)
    x = (counts / 16).astype(np.float32)
    grey = Images(x, y.astype(np.int64), (8, 8), n_classes=10, name="digits", binarisation="none")
    rest, test = grey.split(N_TEST, seed=0)
    train, validation = rest.split(N_VALIDATION, seed=0)
    return binarise_splits(Splits(train, validation, test), binarisation)
