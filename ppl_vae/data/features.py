"""Normally distributed features, resampled in every batch."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ppl_vae.data.images import Selection
from ppl_vae.shared.checks import as_numpy, check_at_least, check_matrix, check_seed, check_whole


@dataclass(frozen=True, eq=False)
class NormalFeatures:
    """Real numbers from N(mean, scale^2), resampled in every batch.

    They make the output of an encoder the data of another model: `NormalFeatures(*m1.features(x))`.
    Training resamples them in every batch; evaluation uses one draw, `sample(seed)`; a classifier's
    `predict` uses the means.

    Args:
        mean: Floating numbers of shape (n, d), an array of any kind; stored as float32.
        scale: Standard deviations of the same shape, not negative.

    Raises:
        ValueError: `mean` and `scale` are not floating, finite and of one shape, or a scale is
            negative.

    References:
        Kingma, Mohamed, Rezende & Welling, "Semi-supervised learning with deep generative models",
        2014, arXiv:1406.5298 (M1+M2, trained layer by layer).
    """

    mean: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    resampling_distribution: ClassVar[str] = "normal"
    support: ClassVar[tuple[float, float]] = (-np.inf, np.inf)

    def __post_init__(self) -> None:
        mean, scale = as_numpy(self.mean), as_numpy(self.scale)
        check_matrix("mean", mean, mean.shape[-1] if mean.ndim else 1)
        check_matrix("scale", scale, mean.shape[1], low=0)
        if len(mean) != len(scale):
            raise ValueError(f"scale should have shape {mean.shape}, had {scale.shape}")
        object.__setattr__(self, "mean", mean.astype(np.float32, copy=False))
        object.__setattr__(self, "scale", scale.astype(np.float32, copy=False))

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, index: Selection) -> "NormalFeatures":
        return NormalFeatures(self.mean[index], self.scale[index])

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (n, d): data and features per datum."""
        return len(self.mean), self.mean.shape[1]

    @property
    def parameters(self) -> tuple[npt.NDArray[np.float32], ...]:
        """The parameters of the distribution of a batch."""
        return self.mean, self.scale

    def sample(self, seed: int) -> npt.NDArray[np.float32]:
        """Return one draw of all data, float32 of shape (n, d), determined by the seed."""
        check_seed(seed)
        noise = np.random.default_rng(seed).standard_normal(self.shape, dtype=np.float32)
        return self.mean + self.scale * noise

    def active(self, threshold: float = 0.1, n: int = 1000) -> npt.NDArray[np.bool_]:
        """Return which features distinguish data: those whose means vary between data.

        Args:
            threshold: Lower bound of the standard deviation of an active feature's means (0.1 in
                the authors' code).
            n: Number of data, the first ones, used for the estimate (1000 in the authors' code).

        Returns:
            A mask of shape (d,), for `select`.

        Raises:
            ValueError: No feature is active.
        """
        check_at_least("threshold", threshold, 0)
        check_whole("n", n, 2)
        deviation = self.mean[:n].std(0)
        if not (deviation > threshold).any():
            raise ValueError(
                f"threshold should be less than the largest standard deviation of a feature's "
                f"means, {deviation.max():.3g}, was {threshold!r}"
            )
        return np.asarray(deviation > threshold)

    def select(self, features: npt.NDArray[Any]) -> "NormalFeatures":
        """Return the data with some of the features: a mask of shape (d,), or indices."""
        return NormalFeatures(self.mean[:, features], self.scale[:, features])
