"""Checks of arguments, for both backends: a `ValueError` names the argument and its value."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from types import UnionType
from typing import Any

import numpy as np

UNLABELLED = -1
"""The label of an unlabelled datum, as in scikit-learn."""


def as_numpy(value: Any) -> np.ndarray:
    """Return a numpy view of an array, a torch tensor on any device, or a jax array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def resampling_distribution(value: Any) -> str | None:
    """Return the distribution of data that are resampled in every batch, or None for an array.

    These are `ppl_vae.data.Dynamic` ("bernoulli") and `ppl_vae.data.NormalFeatures` ("normal"):
    they have `parameters` of the distribution, a `mean`, and `sample(seed)`.
    """
    return getattr(value, "resampling_distribution", None)


def to_mean(value: Any) -> Any:
    """Return the mean of data that are resampled in every batch, and an array as it is."""
    return value.mean if resampling_distribution(value) else value


def sample_once(data: tuple[Any, ...], seed: int) -> list[Any]:
    """Return `data`, with resampled data sampled once: the same sample in both backends."""
    check_seed(seed)
    return [x.sample(seed) if resampling_distribution(x) else x for x in data]


@contextmanager
def prefix_errors(name: str) -> Iterator[None]:
    """Name the argument in errors about data raised within, where several arguments hold data."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name} should be data like those of the model, but {error}") from error


def check_lengths(*data: Any) -> int:
    """Check that all arrays of `data` have the same length, not zero, and return it."""
    if not data:
        raise ValueError("data should be at least one array, was empty")
    for part in data:
        if not getattr(part, "shape", ()):
            raise ValueError(
                f"data should be arrays of shape (n, ...), held {_type_and_shape(part)}"
            )
    lengths = [len(part) for part in data]
    if len(set(lengths)) != 1:
        raise ValueError(f"data should be arrays of one length, had the lengths {lengths}")
    if lengths[0] == 0:
        raise ValueError("data should hold at least one datum, was empty")
    return lengths[0]


def check_matrix(
    name: str, value: Any, dim: int, low: float = -np.inf, high: float = np.inf
) -> None:
    """Check that `value` is a floating (n, dim) array with finite entries in [low, high].

    Data that are resampled in every batch checked their parameters when they were created: only
    their shape and the support of their distribution are checked here.
    """
    shape = tuple(value.shape)
    if len(shape) != 2 or shape[1] != dim:
        raise ValueError(f"{name} should have shape (n, {dim}), had {shape}")
    if resampling_distribution(value):
        if value.support[0] < low or value.support[1] > high:
            raise ValueError(
                f"{name} should lie in [{low:g}, {high:g}], was {type(value).__name__}, which is "
                f"drawn from ({value.support[0]:g}, {value.support[1]:g})"
            )
        return
    array = as_numpy(value)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} should be of a floating type, was {array.dtype}")
    if array.size == 0:
        return
    smallest, largest = float(array.min()), float(array.max())
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        raise ValueError(f"{name} should be finite, held NaN or infinity")
    if smallest < low or largest > high:
        raise ValueError(
            f"{name} should lie in [{low:g}, {high:g}], lay in [{smallest:g}, {largest:g}]"
        )


def check_labels(name: str, value: Any, n_classes: int, *, unlabelled: bool = False) -> None:
    """Check that `value` is a vector of integer classes; `unlabelled` allows -1."""
    array = as_numpy(value)
    if array.ndim != 1:
        raise ValueError(f"{name} should have shape (n,), had {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} should be of an integer type, was {array.dtype}")
    if array.size and (array.min() < -int(unlabelled) or array.max() >= n_classes):
        or_none = " or -1 (unlabelled)" if unlabelled else ""
        raise ValueError(
            f"{name} should be classes 0 to {n_classes - 1}{or_none}, "
            f"held {int(array.min())} to {int(array.max())}"
        )


def check_at_least(name: str, value: Any, least: float) -> None:
    """Check that `value` is a finite number of at least `least`."""
    if not (isinstance(value, Real) and float(value) >= least):
        raise ValueError(f"{name} should be at least {least:g}, was {value!r}")
    if np.isinf(float(value)):
        raise ValueError(f"{name} should be finite, was {value!r}")


def check_positive(name: str, value: Any) -> None:
    """Check that `value` is a finite number above 0."""
    if not (isinstance(value, Real) and 0 < float(value) < np.inf):
        raise ValueError(f"{name} should be a positive number, was {value!r}")


def check_fraction(name: str, value: Any) -> None:
    """Check that `value` is a number in [0, 1]."""
    if not (isinstance(value, Real) and 0 <= float(value) <= 1):
        raise ValueError(f"{name} should be a number in [0, 1], was {value!r}")


def check_type(name: str, value: Any, cls: type | UnionType, description: str) -> None:
    """Check that `value` is an instance of `cls`, which messages call `description`."""
    if not isinstance(value, cls):
        raise ValueError(f"{name} should be {description}, was {_type_name(value)}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Check that `value` is one of the strings `choices`."""
    if not (isinstance(value, str) and value in choices):
        raise ValueError(f"{name} should be {' or '.join(choices)}, was {value!r}")


def check_whole(name: str, value: Any, least: int) -> None:
    """Check that `value` is an integer of any type, but no bool, and at least `least`."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not (whole and int(value) >= least):
        raise ValueError(f"{name} should be a whole number of at least {least}, was {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Check that `value` is True or False, not merely truthy: 1 or "False" is likely a mistake."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} should be True or False, was {value!r}")


def check_compile(value: Any) -> None:
    """Check that the argument `compile` is True, False or "auto"."""
    if not (isinstance(value, bool) or (isinstance(value, str) and value == "auto")):
        raise ValueError(f"compile should be True, False or 'auto', was {value!r}")


def check_seed(seed: Any) -> None:
    """Check that torch, numpy and jax distinguish `seed` from all other seeds."""
    check_whole("seed", seed, 0)
    if seed >= 2**32:
        raise ValueError(f"seed should be below 2**32, was {seed!r}")


def next_seed(seed: int) -> int:
    """Return another seed, for draws that are independent of those with `seed`."""
    return (seed + 1) % 2**32


def check_dims(**dims: Any) -> None:
    """Check that sizes of vectors, by argument name, are whole numbers of at least 1."""
    for name, dim in dims.items():
        check_whole(name, dim, 1)


def check_hidden(hidden: Any) -> None:
    """Check that `hidden` is a sequence, possibly empty, of the sizes of hidden layers."""
    if not isinstance(hidden, Sequence):
        raise ValueError(f"hidden should be a sequence of sizes, was {hidden!r}")
    for size in hidden:
        check_whole("each of hidden", size, 1)


def check_dropout(rates: Any) -> None:
    """Check that the rates for inputs and hidden units are two numbers in [0, 1)."""
    pair = isinstance(rates, Sequence) and len(rates) == 2
    if not (pair and all(isinstance(rate, Real) and 0 <= float(rate) < 1 for rate in rates)):
        raise ValueError(f"dropout should be two rates in [0, 1), was {rates!r}")


def check_batch(size: int) -> None:
    """Check that a batch has a variance, which batch normalisation needs in training."""
    if size < 2:
        raise ValueError(
            "batch should hold at least 2 values of each feature for batch normalisation in "
            f"training, held {size}: choose another batch_size"
        )


def check_layers(z_dims: Any, hidden: Any) -> None:
    """Check that there is a layer of latent variables, and a sequence of hidden sizes for each."""
    for name, value in (("z_dims", z_dims), ("hidden", hidden)):
        if not isinstance(value, Sequence):
            raise ValueError(f"{name} should be a sequence with an entry per layer, was {value!r}")
    if not z_dims:
        raise ValueError(f"z_dims should hold the size of at least one layer, was {z_dims!r}")
    for size in z_dims:
        check_whole("each of z_dims", size, 1)
    if len(hidden) != len(z_dims):
        raise ValueError(
            f"hidden should be one sequence of sizes for each of the {len(z_dims)} layers of "
            f"z_dims, had {len(hidden)}"
        )
    for sizes in hidden:
        if not isinstance(sizes, Sequence):
            raise ValueError(f"hidden should be a sequence of sizes for each layer, was {hidden!r}")


def check_condition(name: str, value: Any, dim: int) -> None:
    """Check that `value` is a finite (n, dim) array, or a vector of `dim` integer classes."""
    dtype = None if resampling_distribution(value) else as_numpy(value).dtype
    if dtype is not None and np.issubdtype(dtype, np.integer):
        check_labels(name, value, dim)
    else:
        check_matrix(name, value, dim)


def check_mask(name: str, value: Any, dim: int) -> None:
    """Check that `value` is a boolean (n, dim) array."""
    array = as_numpy(value)
    if array.ndim != 2 or array.shape[1] != dim:
        raise ValueError(f"{name} should have shape (n, {dim}), had {array.shape}")
    if array.dtype != bool:
        raise ValueError(f"{name} should be of a boolean type, was {array.dtype}")


def check_arguments(data: tuple[Any, ...], *forms: tuple[str, ...]) -> None:
    """Check that `data` are as many arrays as one of `forms` names, all of one length."""
    check_lengths(*data)
    if len(data) not in [len(form) for form in forms]:
        wanted = " or ".join(f"({', '.join(form)})" for form in forms)
        raise ValueError(f"data should be {wanted}, had {len(data)} arrays")


def _type_name(value: Any) -> str:
    cls = value if isinstance(value, type) else type(value)
    name = cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"
    return f"the class {name}" if isinstance(value, type) else name


def _type_and_shape(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
