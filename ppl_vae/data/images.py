"""Images with labels, and what their pixels are: grey levels, or binary draws of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from ppl_vae.shared.checks import check_seed, check_whole

Binarisation = Literal["dynamic", "threshold", "none"]
Selection = slice | list[int] | npt.NDArray[Any]
"""What selects images and keeps them a stack of images: a slice, indices, or a mask."""


@dataclass(frozen=True, eq=False)
class Dynamic:
    """Binary pixels drawn anew whenever a batch is made, each 1 with probability its grey level.

    Training draws in every batch; a bound is measured on one draw, `sample(seed)`; a classifier's
    `predict` is given the pixels' means, which are the grey levels.

    Arguments:
        probs: grey levels in [0, 1], floating, shape (n, d); kept as float32.

    Raises:
        ValueError: `probs` is not two-dimensional, not floating, or leaves [0, 1].

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

    def __getitem__(self, index: Selection) -> Dynamic:
        return Dynamic(self.probs[index])

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d): images and pixels per image."""
        return len(self.probs), self.probs.shape[1]

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        """The grey levels."""
        return self.probs

    @property
    def parameters(self) -> tuple[npt.NDArray[np.float32], ...]:
        """What a batch is drawn from."""
        return (self.probs,)

    def sample(self, seed: int) -> npt.NDArray[np.float32]:
        """One binary draw of all images, float32, shape (n, d); the same for the same seed."""
        check_seed(seed)
        uniform = np.random.default_rng(seed).random(self.shape, dtype=np.float32)
        return (uniform < self.probs).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Images:
    """Flattened images with their labels.

    Arguments:
        x: pixels in [0, 1], shape (n, d): an array that is used as it is, or `Dynamic`.
        y: labels 0 .. n_classes - 1, or -1 for unlabelled; int64, shape (n,).
        image_shape: rows and columns, whose product is d.
        n_classes: the number of classes C.
        name: what a user calls the data set.
        binarisation: what was done to the grey levels; see `binarise`.

    Raises:
        ValueError: one of these does not hold.
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

    def __getitem__(self, indices: Selection) -> Images:
        return replace(self, x=self.x[indices], y=self.y[indices])

    def split(self, n: int, seed: int) -> tuple[Images, Images]:
        """Splits off `n` images, with the classes in the proportions of the whole.

        Returns:
            The rest, of len(self) - n images, and the part, of n images.

        Raises:
            ValueError: either side would have fewer images than there are classes.
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
        rest, part = train_test_split(
            np.arange(len(self)), test_size=n, stratify=self.y, random_state=seed
        )
        return self[rest], self[part]

    def join(self, other: Images) -> Images:
        """These images and then the others, which have the same shape and binarisation.

        Raises:
            ValueError: they have not.
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
    """The three parts of a data set."""

    train: Images
    validation: Images
    test: Images


def binarise(
    x: npt.NDArray[np.float32], binarisation: Binarisation
) -> npt.NDArray[np.float32] | Dynamic:
    """Grey levels as what `binarisation` names.

    - "dynamic": binary pixels drawn anew for each batch (`Dynamic`).
    - "threshold": 1 where the grey level is above 0.5, else 0.
    - "none": the grey levels themselves.

    Arguments:
        x: grey levels in [0, 1], floating, shape (n, d).

    Returns:
        float32 of shape (n, d), or `Dynamic` of that shape.

    Raises:
        ValueError: another name, or `x` that is not such grey levels.
    """
    check_binarisation(binarisation)
    x = _grey_levels(x, "x")
    if binarisation == "dynamic":
        return Dynamic(x)
    return (x > 0.5).astype(np.float32) if binarisation == "threshold" else x


def binarise_splits(grey: Splits, binarisation: Binarisation) -> Splits:
    """`binarise` on each part of a data set that was read as grey levels."""

    def part(images: Images) -> Images:
        assert isinstance(images.x, np.ndarray)
        return replace(images, x=binarise(images.x, binarisation), binarisation=binarisation)

    return Splits(*(part(images) for images in grey))


def check_binarisation(name: str) -> None:
    """Raises a ValueError unless `name` is one that `binarise` knows."""
    if name not in get_args(Binarisation):
        raise ValueError(f"binarisation should be dynamic, threshold or none, was {name!r}")


def _grey_levels(x: npt.NDArray[Any], argument: str) -> npt.NDArray[np.float32]:
    """`x` as float32, or a ValueError that says what is wrong with it."""
    if not (isinstance(x, np.ndarray) and x.ndim == 2 and np.issubdtype(x.dtype, np.floating)):
        raise ValueError(f"{argument} should be floating of shape (n, d), was {_kind(x)}")
    # Written so that NaN, for which every comparison is false, does not pass.
    if x.size and not (x.min() >= 0 and x.max() <= 1):
        n_nan = int(np.isnan(x).sum())
        was = f"had {n_nan} NaN" if n_nan else f"was in [{x.min()}, {x.max()}]"
        raise ValueError(f"{argument} should be in [0, 1], {was}")
    return x.astype(np.float32, copy=False)


def _kind(x: object) -> str:
    return f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else repr(x)
