"""Random numbers of the data of a batch that several processes share: those that one would draw."""

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

from ppl_vae.inference.batch_sums import Share, batch_norm, sharing
from ppl_vae.inference.compilation.private_torch import DispatchMode

BY_SIZE = {
    *("bernoulli", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_"),
    *("multinomial", "native_dropout", "normal", "normal_", "rand", "rand_like", "randint"),
    *("randint_like", "randn", "randn_like", "random_", "uniform", "uniform_"),
}
"""Operations that take as many random numbers as their shape tells, whatever the values are."""
BY_VALUE = {"_sample_dirichlet", "_standard_gamma", "binomial", "poisson"}
"""Operations that reject draws, and so take as many as it happens."""


@contextmanager
def shared(share: Share) -> Iterator["Sites"]:
    """Inside, a program on the own rows of a batch does what it would do there on all of them.

    At the sites of the data plate, and for dropout, random numbers are drawn for all rows, and the
    own ones are kept, so that processes whose generators are in one state draw together what one
    process would. Gamma, Dirichlet, binomial and Poisson draws are each process's own, from a
    generator of its own: equal in distribution. Batch normalisation is by the statistics of all
    rows.

    Raises:
        ValueError: (inside) a site lies outside the data plate, a plate takes a subsample, or what
            is drawn has no dimension of the data that can be told.
    """
    sites = Sites(share)
    with sharing(share), sites, _Layers(share):
        yield sites


class Sites(Messenger):
    """Draws at the sites of the data plate. As the outermost handler it sees what others made.

    Attributes:
        own_draws: Whether something was drawn that processes cannot share.
    """

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share
        self.own_draws = False

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
        with _Rows(self.share, shape, n_batch - 1, f"site {name!r}") as rows:
            msg["value"] = fn(*msg["args"], **msg["kwargs"])
        self.own_draws |= rows.own_draws

    def _check_whole(self, name: str, size: Any, part: Any) -> None:
        if part is not None and part != size:
            raise ValueError(
                f"plate {name!r} should have all of a batch to be trained by several processes, "
                f"took {part} of {size}: use one process"
            )


class _Layers(TorchFunctionMode):
    """Dropout and batch normalisation, in the layers of networks."""

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and _training(args, kwargs):
            return batch_norm(*args, **kwargs)
        if func is F.dropout:
            shape = tuple(args[0].shape)
            if len(shape) >= 2 and shape[-2] == len(self.share):
                with _Rows(self.share, shape, len(shape) - 2, "dropout"):
                    return func(*args, **kwargs)
        return func(*args, **kwargs)


def _training(args: Sequence[Any], kwargs: Any) -> bool:
    """Whether a call of `batch_norm` asks for the statistics of its input."""
    return bool(args[5] if len(args) > 5 else kwargs.get("training", False))


class _Rows(DispatchMode):  # type: ignore[misc]  # found at run time
    """Random operations draw for all rows of the batch, and give the own ones.

    Args:
        share: The own rows.
        shape: Of what is drawn, for the own rows.
        dim: Its dimension of the data, from the left.
        what: What an error calls it.
    """

    def __init__(self, share: Share, shape: Sequence[int], dim: int, what: str) -> None:
        super().__init__()
        self.share, self.dim, self.what = share, dim, what
        self.own_draws = False
        self.before = math.prod(shape[:dim])
        self.lead = tuple(shape[: dim + 1])
        self.flat = {math.prod(shape[:end]) for end in range(dim + 1, len(shape) + 1)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if name in BY_VALUE:
            self.own_draws = True
            return func(*args, **{**kwargs, "generator": self._own_generator(tensors[0].device)})
        if name not in BY_SIZE:
            raise ValueError(
                f"{self.what} should be drawn by operations that processes can share, was by "
                f"torch's {name!r}: use one process"
            )
        shape = torch.broadcast_shapes(*(t.shape for t in tensors)) if tensors else args[0]
        dim = self._dimension(shape)
        if not tensors:
            return self._own(func(self._of_all(shape, dim), *args[1:], **kwargs), dim)
        wide = [self._wide(a, shape, dim) if isinstance(a, Tensor) else a for a in args]
        drawn = func(*wide, **kwargs)
        if name.endswith("_"):
            return args[0].copy_(self._own(drawn, dim))
        if isinstance(drawn, tuple):
            return tuple(self._own(part, dim) for part in drawn)
        return self._own(drawn, dim)

    def _dimension(self, shape: Sequence[int]) -> int:
        """Which dimension of an operation is that of the data, or begins with it."""
        if tuple(shape[: self.dim + 1]) == self.lead:
            return self.dim
        if len(shape) > 0 and shape[0] in self.flat:  # of `multinomial`
            return 0
        raise ValueError(
            f"{self.what} should be drawn with the dimensions {self.lead} first to be shared by "
            f"processes, was with {tuple(shape)}: use one process"
        )

    def _of_all(self, shape: Sequence[int], dim: int) -> list[int]:
        n = shape[dim] // len(self.share) * self.share.size
        return [*shape[:dim], n, *shape[dim + 1 :]]

    def _wide(self, value: Tensor, shape: Sequence[int], dim: int) -> Tensor:
        """A value for all rows; other processes' are the first of the own ones."""
        own = value.expand(shape).reshape(self.before, len(self.share), -1)
        first = own[:, :1]
        counts = self.share.start, self.share.size - self.share.stop
        sides = [first.expand(-1, count, -1) for count in counts]
        return torch.cat([sides[0], own, sides[1]], 1).reshape(self._of_all(shape, dim))

    def _own(self, drawn: Tensor, dim: int) -> Tensor:
        n = drawn.shape[dim] // self.share.size * len(self.share)
        rows = drawn.reshape(self.before, self.share.size, -1)
        own = rows[:, self.share.start : self.share.stop]
        return own.reshape(*drawn.shape[:dim], n, *drawn.shape[dim + 1 :])

    def _own_generator(self, device: torch.device) -> torch.Generator:
        """Of its own for each process, by a number that all draw."""
        seed = int(torch.randint(2**40, ())) + self.share.start
        return torch.Generator(device).manual_seed(seed)
