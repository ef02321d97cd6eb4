"""Random numbers for a batch that is divided among processes: those that one process would draw."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ppl_vae.inference.batch_sums import Shard, batch_norm, summing_over_processes
from ppl_vae.inference.compilation.private_torch import DispatchMode

BY_SIZE = {
    *("bernoulli", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_"),
    *("multinomial", "native_dropout", "normal", "normal_", "rand", "rand_like", "randint"),
    *("randint_like", "randn", "randn_like", "random_", "uniform", "uniform_"),
}
"""Operations that use a number of random numbers that depends on their shape alone."""
BY_VALUE = {"_sample_dirichlet", "_standard_gamma", "binomial", "poisson"}
"""Operations that draw by rejection, with a random number of random numbers."""
DROPOUT = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d}


@contextmanager
def shared_draws(shard: Shard) -> Iterator["SharedSites"]:
    """Run a program on this process's rows of a batch as it would run on all rows.

    At the sites of the data plate, and for dropout, random numbers are drawn for all rows and those
    of this process's rows are kept: processes whose generators are in the same state together draw
    what one process would. Gamma, Dirichlet, binomial and Poisson draws come from a generator of
    each process: they are equal in distribution. Batch normalisation uses the statistics of all
    rows.

    Raises:
        ValueError: (inside) A site lies outside the data plate, a plate takes a subsample, or the
            data dimension of a draw is unknown.
    """
    sites = SharedSites(shard)
    with summing_over_processes(shard), sites, _Layers(shard):
        yield sites


class SharedSites(Messenger):
    """An effect handler that draws the sites of the data plate; must be the outermost handler.

    Attributes:
        independent_draws: Whether a site was drawn independently in each process.
    """

    def __init__(self, shard: Shard) -> None:
        super().__init__()
        self.shard = shard
        self.independent_draws = False

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if isinstance(fn, _Subsample):
            self._check_whole(name, fn.size, fn.subsample_size)
            return
        frame = next((f for f in msg["cond_indep_stack"] if f.dim == -1), None)
        if frame is None:
            raise ValueError(
                f"site {name!r} should lie in the data plate, at dim -1, to be trained by several "
                "processes, but it belongs to all data: use one process"
            )
        self._check_whole(frame.name, frame.full_size, frame.size)
        if msg["done"] or msg["is_observed"] or msg["value"] is not None:
            return
        n_batch = len(fn.batch_shape)
        shape = (*fn.batch_shape, *fn.event_shape)
        with _SharedOperations(self.shard, shape, n_batch - 1, f"site {name!r}") as operations:
            msg["value"] = fn(*msg["args"], **msg["kwargs"])
        self.independent_draws |= operations.independent_draws

    def _check_whole(self, name: str, size: Any, part: Any) -> None:
        if part is not None and part != size:
            raise ValueError(
                f"plate {name!r} should have all of a batch to be trained by several processes, "
                f"took {part} of {size}: use one process"
            )


class _Layers(TorchFunctionMode):
    """Dropout and batch normalisation, in the layers of networks."""

    def __init__(self, shard: Shard) -> None:
        super().__init__()
        self.shard = shard

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and _training(args, kwargs):
            return batch_norm(*args, **kwargs)
        if func in DROPOUT:
            shape = tuple(args[0].shape)
            dim = _data_dimension(shape, len(self.shard))
            if dim is not None:
                with _SharedOperations(self.shard, shape, dim, "dropout"):
                    return func(*args, **kwargs)
        return func(*args, **kwargs)


def _training(args: Sequence[Any], kwargs: Any) -> bool:
    """Return whether a call of `batch_norm` uses the statistics of its input."""
    return bool(args[5] if len(args) > 5 else kwargs.get("training", False))


def _data_dimension(shape: Sequence[int], n: int) -> int | None:
    """Return the data dimension of an activation with n rows, (..., n, features, ...), or None.

    The leftmost dimension of size n, but the second of (n, n, features): particles come first.
    """
    dims = [dim for dim, size in enumerate(shape[:-1]) if size == n]
    if len(shape) == 3 and dims == [0, 1]:
        return 1
    return dims[0] if dims else None


class _SharedOperations(DispatchMode):  # type: ignore[misc]  # found at run time
    """Random operations that draw for all rows of the batch and return this process's rows.

    Args:
        shard: The rows of this process.
        shape: Shape of a draw for these rows.
        dim: Its data dimension, from the left.
        name: What is drawn, for error messages.
    """

    def __init__(self, shard: Shard, shape: Sequence[int], dim: int, name: str) -> None:
        super().__init__()
        self.shard, self.dim, self.name = shard, dim, name
        self.independent_draws = False
        self.before = math.prod(shape[:dim])
        self.lead = tuple(shape[: dim + 1])
        self.flat = {math.prod(shape[:end]) for end in range(dim + 1, len(shape) + 1)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        operation = func.overloadpacket.__name__
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if operation in BY_VALUE:
            self.independent_draws = True
            return func(*args, **{**kwargs, "generator": self._generator(tensors[0].device)})
        if operation not in BY_SIZE:
            raise ValueError(
                f"{self.name} should be drawn by operations that processes can share, was by "
                f"torch's {operation!r}: use one process"
            )
        shape = torch.broadcast_shapes(*(t.shape for t in tensors)) if tensors else args[0]
        dim = self._dimension(shape)
        if not tensors:
            return self._own_rows(func(self._full_shape(shape, dim), *args[1:], **kwargs), dim)
        full = [self._expand(a, shape, dim) if isinstance(a, Tensor) else a for a in args]
        drawn = func(*full, **kwargs)
        if operation.endswith("_"):
            return args[0].copy_(self._own_rows(drawn, dim))
        if isinstance(drawn, tuple):
            return tuple(self._own_rows(part, dim) for part in drawn)
        return self._own_rows(drawn, dim)

    def _dimension(self, shape: Sequence[int]) -> int:
        """Return the dimension of an operation that is the data dimension, or begins with it."""
        if tuple(shape[: self.dim + 1]) == self.lead:
            return self.dim
        if len(shape) > 0 and shape[0] in self.flat:  # `multinomial` flattens its dimensions
            return 0
        raise ValueError(
            f"{self.name} should be drawn with the dimensions {self.lead} first to be shared by "
            f"processes, was with {tuple(shape)}: use one process"
        )

    def _full_shape(self, shape: Sequence[int], dim: int) -> list[int]:
        n = shape[dim] // len(self.shard) * self.shard.size
        return [*shape[:dim], n, *shape[dim + 1 :]]

    def _expand(self, value: Tensor, shape: Sequence[int], dim: int) -> Tensor:
        """Expand a value to all rows; other processes' rows are copies of the first one."""
        own = value.expand(shape).reshape(self.before, len(self.shard), -1)
        first = own[:, :1]
        counts = self.shard.start, self.shard.size - self.shard.stop
        sides = [first.expand(-1, count, -1) for count in counts]
        return torch.cat([sides[0], own, sides[1]], 1).reshape(self._full_shape(shape, dim))

    def _own_rows(self, drawn: Tensor, dim: int) -> Tensor:
        n = drawn.shape[dim] // self.shard.size * len(self.shard)
        rows = drawn.reshape(self.before, self.shard.size, -1)
        own = rows[:, self.shard.start : self.shard.stop]
        return own.reshape(*drawn.shape[:dim], n, *drawn.shape[dim + 1 :])

    def _generator(self, device: torch.device) -> torch.Generator:
        """Return a generator of this process, seeded by a number that all processes draw."""
        seed = int(torch.randint(2**40, ())) + self.shard.start
        return torch.Generator(device).manual_seed(seed)
