"""What every Pyro model/guide pair shares: its arguments, its file, its samples."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from ppl_vae.models.networks.layers import Network
from ppl_vae.models.svi import _shown_to_svi
from ppl_vae.shared.checks import as_numpy, check_lengths, check_type, check_whole, to_mean
from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.io.stored_weights import check_arrays, check_sizes


class Model(Network):
    """A model p(x, z) and its guide q(z | x): the methods `model(*data)` and `guide(*data)`.

    A subclass defines these two, and `check` for its data. Model and guide are one module, so
    that networks can be shared and `.to(device)`, `state_dict()` and `save` cover both.

    Pyro users: `SVI(m.model, m.guide, pyro.optim.Adam(...), Trace_ELBO())` trains every parameter
    of `m`. Each instance has names of its own in Pyro's parameter store, which forgets them when
    the instance is gone; `ppl_vae.inference.fit` does not use the store.
    """

    x_dim: int

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("model", "guide"):
            if name in cls.__dict__:
                setattr(cls, name, _shown_to_svi(cls.__dict__[name]))

    def model(self, *data: Any) -> None:
        """The generative model, a Pyro program: p(x, z)."""
        raise TypeError(f"{type(self).__name__} should define model(*data), which it does not")

    def guide(self, *data: Any) -> None:
        """The approximate posterior, a Pyro program: q(z | x)."""
        raise TypeError(f"{type(self).__name__} should define guide(*data), which it does not")

    def check(self, *data: Any) -> None:
        """Raises a ValueError that names what is wrong with `data`, the arguments of `model`."""
        check_lengths(*data)

    @staticmethod
    def support(network: nn.Module) -> tuple[float, float]:
        """The interval of values that the distributions of `network` are for."""
        low, high = getattr(network, "support", (-np.inf, np.inf))
        return float(low), float(high)

    def blank(self, n: int) -> tuple[Tensor, ...]:
        """Data of size n without content, which tell `sample` the shapes of the observed sites."""
        return (torch.zeros(n, self.x_dim, device=self.device),)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def as_tensors(self, *data: Any) -> tuple[Tensor, ...]:
        """Arrays of any kind as tensors on the model's device, floating ones in its type."""
        weight = next(self.parameters())
        parts = [torch.as_tensor(part, device=weight.device) for part in data]
        return tuple(p.to(weight.dtype) if p.is_floating_point() else p.long() for p in parts)

    @torch.no_grad()
    def sample(self, n: int) -> dict[str, Tensor]:
        """n draws of every site of the model, observed sites included: site -> (n, ...).

        Like everything that looks at a model and does not train it, in evaluation mode.
        """
        check_whole("n", n, 1)
        return self.simulate(*self.blank(n))

    @torch.no_grad()
    def simulate(self, *data: Tensor) -> dict[str, Tensor]:
        """A draw of every site of the model; of observed sites `data` tell no more than shapes."""
        with evaluating(self):
            trace = poutine.trace(poutine.uncondition(self.model)).get_trace(*data)
        nodes: Mapping[str, Any] = trace.nodes
        sites = prune_subsample_sites(trace).stochastic_nodes
        return {name: nodes[name]["value"] for name in sites}

    @torch.no_grad()
    def decode(self, latents: Mapping[str, Tensor], *data: Any, site: str = "x") -> Tensor:
        """The mean of p(x | z) at given z: (n, x_dim) for latents of shape (n, ...) by their sites.

        Args:
            latents: What `sample` returned, say; sites that are not latent are left out.
            data: The arguments of `model`, of which no more than observed conditions and the
                shapes matter; by default `blank(n)`.
            site: The observed site.
        """
        given = {name: value for name, value in latents.items() if name != site}
        if not given:
            raise ValueError("latents should hold the values of latent sites, was empty")
        n = len(next(iter(given.values())))
        program = poutine.condition(self.model, data=given)
        with evaluating(self):
            trace = poutine.trace(program).get_trace(*(self.as_tensors(*data) or self.blank(n)))
        nodes: Mapping[str, Any] = trace.nodes
        mean: Tensor = nodes[site]["fn"].mean
        return mean

    @torch.no_grad()
    def reconstruct(self, *data: Tensor | np.ndarray, site: str = "x") -> Tensor:
        """The mean of p(x | z) with z drawn from the guide: (n, x_dim) for data of n rows."""
        self.check(*data)
        tensors = self.as_tensors(*data)
        with evaluating(self):
            guide = poutine.trace(self.guide).get_trace(*tensors)
            trace = poutine.trace(poutine.replay(self.model, trace=guide)).get_trace(*tensors)
        nodes: Mapping[str, Any] = trace.nodes
        if site not in trace.observation_nodes:
            raise ValueError(
                f"site should be an observed one, of {trace.observation_nodes}, was {site!r}"
            )
        mean: Tensor = nodes[site]["fn"].mean
        return mean

    def save(self, path: str | Path) -> None:
        """Writes the arguments (JSON, in the header) and the weights to one safetensors file."""
        weights = {name: as_numpy(value) for name, value in self.state_dict().items()}
        safetensors_file.write(Path(path), weights, self.describe())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The model that `save` wrote, in this backend or in the other, on the CPU.

        `Model.load` takes a file of any model class, `M2.load` one of M2 or its subclasses. A class
        of your own must be defined before; its `__init__` is called twice, first on torch's device
        "meta" to compare the shapes, so that a file cannot ask for more memory than it holds.

        Raises:
            ValueError: the file is damaged, or holds another class or other weights.
        """
        weights, description = safetensors_file.read(Path(path))
        with safetensors_file.of_a_model(Path(path)):
            with torch.device("meta"):
                shapes = cls.from_description(description)
            shapes._check_file(weights)
            return cls.from_description(description).with_weights(weights)

    def with_weights(self, weights: Mapping[str, Any]) -> Self:
        """Takes over the weights (arrays of any kind, by torch's parameter names), in place.

        Raises:
            ValueError: a name is missing or unknown, or a shape or kind of number is another one.
        """
        arrays = {name: as_numpy(value) for name, value in weights.items()}
        self._check_weights(arrays)
        self.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
        return self

    def _check_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        check_arrays(type(self).__name__, self.state_dict(), weights)

    def _check_file(self, weights: Mapping[str, np.ndarray]) -> None:
        """The arrays of a file are those of this model, made on the device "meta", and finite."""
        self._check_weights(weights)
        beside = sum(v.numel() for name, v in self.named_buffers() if name not in weights)
        check_sizes(beside, weights, [name for name, _ in self.named_parameters()])


def check_model(model: Any) -> None:
    """Raises a ValueError unless `model` is a model/guide pair of this backend."""
    check_type("model", model, Model, "a ppl_vae Model")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode (no dropout, running statistics), and back."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextmanager
def keeping_buffers(module: nn.Module) -> Iterator[None]:
    """Running statistics of a module are afterwards what they were before."""
    before = {name: value.clone() for name, value in module.named_buffers()}
    try:
        yield
    finally:
        for name, value in module.named_buffers():
            value.copy_(before[name])


class ClassifierMixin:
    """Class probabilities from the network `classifier`, under scikit-learn's names."""

    def classify(self: Any, x: Tensor) -> Any:
        """q(y | x), a distribution over classes for x of shape (n, x_dim)."""
        return self.classifier(x)

    @torch.no_grad()
    def predict_proba(self: Any, x: Any) -> Tensor:
        """q(y | x): (n, n_classes) for x of shape (n, x_dim), an array or a tensor.

        Of data that are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) the means are taken.
        """
        x = to_mean(x)
        self.check(x)
        with evaluating(self):
            probs: Tensor = self.classify(*self.as_tensors(x)).probs
        return probs

    def predict(self, x: Any) -> Tensor:
        """The most probable class: (n,) for x of shape (n, x_dim)."""
        return self.predict_proba(x).argmax(-1)
