"""Features that are normal distributions, of which data are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ppl_vae.data.images import Selection
from ppl_vae.shared.checks import as_numpy, check_at_least, check_matrix, check_seed, check_whole


@dataclass(frozen=True, eq=False)
class NormalFeatures:
    """Real numbers drawn anew whenever a batch is made, each from N(mean, scale^2).

    What an encoder makes of data, `NormalFeatures(*m1.features(x))`, as data of another model.
    Training draws in every batch; a bound is measured on one draw, `sample(seed)`; a classifier's
    `predict` is given the means.

    Arguments:
        mean: real numbers, floating, shape (n, d), an array of any kind; kept as float32.
        scale: standard deviations, likewise, not negative.

    Raises:
        ValueError: these are not floating, finite and of one shape, or a scale is negative.

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

    def __getitem__(self, index: Selection) -> NormalFeatures:
        return NormalFeatures(self.mean[index], self.scale[index])

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d): data and features per datum."""
        return len(self.mean), self.mean.shape[1]

    @property
    def parameters(self) -> tuple[npt.NDArray[np.float32], ...]:
        """What a batch is drawn from."""
        return self.mean, self.scale

    def sample(self, seed: int) -> npt.NDArray[np.float32]:
        """One draw of all data, float32, shape (n, d); the same for the same seed."""
        check_seed(seed)
        noise = np.random.default_rng(seed).standard_normal(self.shape, dtype=np.float32)
        return self.mean + self.scale * noise

    def active(self, threshold: float = 0.1, n: int = 1000) -> npt.NDArray[np.bool_]:
        """Which features tell data apart: those whose means differ from datum to datum.

        Arguments:
            threshold: what the standard deviation of a feature's means exceeds (the authors' 0.1).
            n: the number of data, the first ones, that are looked at (the authors' 1000).

        Returns:
            A mask of shape (d,), for `select`.

        Raises:
            ValueError: no feature is active.
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

    def select(self, features: npt.NDArray[Any]) -> NormalFeatures:
        """The data with some of the features: a mask of shape (d,), or indices."""
        return NormalFeatures(self.mean[:, features], self.scale[:, features])
