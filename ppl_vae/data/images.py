"""Images with labels, and their pixels: grey levels, or binary draws of them."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args

import numpy as np
import numpy.typing as npt

from ppl_vae.shared.checks import check_seed, check_whole

Binarisation = Literal["dynamic", "threshold", "none"]
Selection = slice | list[int] | npt.NDArray[Any]
"""A selection of several images: a slice, indices, or a mask."""


@dataclass(frozen=True, eq=False)
class Dynamic:
    """Binary pixels resampled in every batch (dynamic binarisation).

    Each pixel is 1 with the probability of its grey level. Training resamples the pixels in every
    batch; evaluation uses one draw, `sample(seed)`; a classifier's `predict` uses their means, the
    grey levels.

    Args:
        probs: Grey levels in [0, 1], floating, shape (n, d); stored as float32.

    Raises:
        ValueError: `probs` is not two-dimensional, not floating, or outside of [0, 1].

    References:
        Salakhutdinov & Murray, "On the Quantitative Analysis of Deep Belief Networks", 2008.
        Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders", 2016, arXiv:1509.00519.
    """

    probs: npt.NDArray[np.float32]
    resampling_distribution: ClassVar[str] = "bernoulli"
    support: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "probs", _grey_levels(self.probs, "probs"))

    def __len__(self) -> int:
        return len(self.probs)

    def __getitem__(self, index: Selection) -> "Dynamic":
        return Dynamic(self.probs[index])

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (n, d): images and pixels per image."""
        return len(self.probs), self.probs.shape[1]

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        """The means of the pixels, which are the grey levels."""
        return self.probs

    @property
    def parameters(self) -> tuple[npt.NDArray[np.float32], ...]:
        """The parameters of the distribution of a batch."""
        return (self.probs,)

    def sample(self, seed: int) -> npt.NDArray[np.float32]:
        """Return one binary draw of all images, float32 of shape (n, d), determined by the seed."""
        check_seed(seed)
        uniform = np.random.default_rng(seed).random(self.shape, dtype=np.float32)
        return (uniform < self.probs).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Images:
    """Flattened images with their labels.

    Args:
        x: Pixels in [0, 1], shape (n, d): an array, which is not copied, or `Dynamic`.
        y: Labels 0 .. n_classes - 1, or -1 for unlabelled; int64, shape (n,).
        image_shape: Rows and columns, whose product is d.
        n_classes: Number of classes C.
        name: Name of the data set.
        binarisation: How grey levels became pixels; see `binarise`.

    Raises:
        ValueError: An argument is invalid.
    """

    x: npt.NDArray[np.float32] | Dynamic
    y: npt.NDArray[np.int64]
    image_shape: tuple[int, int]
    n_classes: int
    name: str
    binarisation: Binarisation

    def __post_init__(self) -> None:
        check_binarisation(self.binarisation)
        if not isinstance(self.x, Dynamic):
            object.__setattr__(self, "x", _grey_levels(self.x, "x"))
        n, d = self.x.shape
        if d != self.image_shape[0] * self.image_shape[1]:
            raise ValueError(f"image_shape should multiply to d = {d}, was {self.image_shape}")
        y_is_array = isinstance(self.y, np.ndarray)
        if not (y_is_array and self.y.shape == (n,) and self.y.dtype == np.int64):
            raise ValueError(f"y should be int64 of shape ({n},), was {_kind(self.y)}")
        if n and not (self.y.min() >= -1 and self.y.max() < self.n_classes):
            raise ValueError(
                f"y should be in 0..{self.n_classes - 1}, or -1 for unlabelled, "
                f"was in {self.y.min()}..{self.y.max()}"
            )

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, indices: Selection) -> Self:
        return replace(self, x=self.x[indices], y=self.y[indices])

    def split(self, n: int, seed: int) -> tuple[Self, Self]:
        """Split off `n` images with the same proportions of classes.

        Args:
            n: Number of images in the second part.
            seed: Random seed of the split.

        Returns:
            Two sets of len(self) - n and n images.

        Raises:
            ValueError: A part would have fewer images than there are classes.
        """
        from sklearn.model_selection import train_test_split

        check_whole("n", n, 0)
        classes = len(np.unique(self.y))
        if not classes <= n <= len(self) - classes:
            raise ValueError(
                f"n should be in {classes}..{len(self) - classes}, so that both sides can have "
                f"each of the {classes} classes, was {n}"
            )
        check_seed(seed)
        first, second = train_test_split(
            np.arange(len(self)), test_size=n, stratify=self.y, random_state=seed
        )
        return self[first], self[second]

    def join(self, other: Self) -> Self:
        """Return these images followed by others of the same shape and binarisation.

        Raises:
            ValueError: Shape, number of classes or binarisation differ.
        """
        for name in ("image_shape", "n_classes", "binarisation"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise ValueError(f"other should have {name} {ours!r}, had {theirs!r}")
        x: Any
        if isinstance(self.x, Dynamic) and isinstance(other.x, Dynamic):
            x = Dynamic(np.concatenate([self.x.probs, other.x.probs]))
        else:
            x = np.concatenate([self.x, other.x])
        return replace(self, x=x, y=np.concatenate([self.y, other.y]))


class Splits(NamedTuple):
    """The training, validation and test images of a data set."""

    train: Images
    validation: Images
    test: Images


def binarise(
    x: npt.NDArray[np.float32], binarisation: Binarisation
) -> npt.NDArray[np.float32] | Dynamic:
    """Return grey levels as pixels of the named binarisation.

    - "dynamic": binary pixels resampled in every batch (`Dynamic`).
    - "threshold": 1 where the grey level is above 0.5, else 0.
    - "none": the grey levels themselves.

    Args:
        x: Grey levels in [0, 1], floating, shape (n, d).
        binarisation: One of these three names.

    Returns:
        float32 of shape (n, d), or `Dynamic` of that shape.

    Raises:
        ValueError: An argument is invalid.
    """
    check_binarisation(binarisation)
    x = _grey_levels(x, "x")
    if binarisation == "dynamic":
        return Dynamic(x)
    return (x > 0.5).astype(np.float32) if binarisation == "threshold" else x


def binarise_splits(grey: Splits, binarisation: Binarisation) -> Splits:
    """Apply `binarise` to each part of a data set of grey levels."""

    def binarised(images: Images) -> Images:
        assert isinstance(images.x, np.ndarray)
        return replace(images, x=binarise(images.x, binarisation), binarisation=binarisation)

    return Splits(*map(binarised, grey))


def check_binarisation(name: str) -> None:
    """Check that `name` is one of `binarise`'s; raises a ValueError if not."""
    if name not in get_args(Binarisation):
        raise ValueError(f"binarisation should be dynamic, threshold or none, was {name!r}")


def _grey_levels(x: npt.NDArray[Any], argument: str) -> npt.NDArray[np.float32]:
    """Return `x` as float32; a ValueError says what is wrong with it."""
    if not (isinstance(x, np.ndarray) and x.ndim == 2 and np.issubdtype(x.dtype, np.floating)):
        raise ValueError(f"{argument} should be floating of shape (n, d), was {_kind(x)}")
    # In this form NaN, for which every comparison is false, fails the check.
    if x.size and not (x.min() >= 0 and x.max() <= 1):
        n_nan = int(np.isnan(x).sum())
        was = f"had {n_nan} NaN" if n_nan else f"was in [{x.min()}, {x.max()}]"
        raise ValueError(f"{argument} should be in [0, 1], {was}")
    return x.astype(np.float32, copy=False)


def _kind(x: object) -> str:
    return f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else repr(x)
