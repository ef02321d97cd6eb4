"""The base class of all Pyro model/guide pairs: arguments, files, samples."""

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
from ppl_vae.models.svi import registering_parameters
from ppl_vae.shared.checks import as_numpy, check_type, check_whole, to_mean
from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.io.stored_weights import check_arrays, check_sizes
from ppl_vae.shared.model_checks import DataChecks, LabelChecks


class Model(DataChecks, Network):
    """Base class of model/guide pairs: a model p(x, z) and its guide q(z | x) in one module.

    A subclass defines the Pyro programs `model(*data)` and `guide(*data)`, and `check(*data)` if
    the default does not fit its data. As model and guide are one module, networks can be shared,
    and `.to(device)`, `state_dict()` and `save` cover both.

    Pyro users: `SVI(m.model, m.guide, pyro.optim.Adam(...), Trace_ELBO())` trains every parameter
    of `m`. For this, `model` and `guide` are wrapped when a subclass is defined, so that they
    register the parameters with Pyro whenever SVI runs them. The wrapping is automatic, and not a
    decorator, because a forgotten decorator would go unnoticed: SVI would run and train nothing.
    Each instance has its own names in Pyro's parameter store, and they are removed with the
    instance. `ppl_vae.inference.fit` does not use the store.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("model", "guide"):
            if name in cls.__dict__:
                setattr(cls, name, registering_parameters(cls.__dict__[name]))

    def model(self, *data: Any) -> None:
        """The generative model p(x, z), a Pyro program."""
        raise TypeError(f"{type(self).__name__} should define model(*data), which it does not")

    def guide(self, *data: Any) -> None:
        """The approximate posterior q(z | x), a Pyro program."""
        raise TypeError(f"{type(self).__name__} should define guide(*data), which it does not")

    def blank(self, n: int) -> tuple[Tensor, ...]:
        """Return n rows of zeros as data, which give `sample` the shapes of the observed sites."""
        return (torch.zeros(n, self.x_dim, device=self.device),)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    def as_tensors(self, *data: Any) -> tuple[Tensor, ...]:
        """Return arrays of any kind as tensors on the model's device.

        Floating arrays get the model's floating type, all others become integers (int64).
        """
        weight = next(self.parameters())
        tensors = [torch.as_tensor(array, device=weight.device) for array in data]
        return tuple(t.to(weight.dtype) if t.is_floating_point() else t.long() for t in tensors)

    @torch.no_grad()
    def sample(self, n: int) -> dict[str, Tensor]:
        """Return n draws of every site of the model, observed sites included: site -> (n, ...).

        The model is temporarily switched to evaluation mode, as in all methods that do not train.
        """
        check_whole("n", n, 1)
        return self.simulate(*self.blank(n))

    @torch.no_grad()
    def simulate(self, *data: Tensor) -> dict[str, Tensor]:
        """Return a draw of every site of the model given the conditions among `data`.

        Observed sites are drawn too: only the shapes of their data matter.
        """
        with evaluating(self):
            trace = poutine.trace(poutine.uncondition(self.model)).get_trace(*data)
        nodes: Mapping[str, Any] = trace.nodes
        sites = prune_subsample_sites(trace).stochastic_nodes
        return {name: nodes[name]["value"] for name in sites}

    @torch.no_grad()
    def decode(self, latents: Mapping[str, Tensor], *data: Any, site: str = "x") -> Tensor:
        """Return the mean of p(x | z) at given latents: shape (n, x_dim).

        Args:
            latents: Values by site name, each of shape (n, ...), such as the draws of `sample`;
                sites that are not latent are ignored.
            data: The arguments of `model`, by default `blank(n)`. Only conditions and the shapes
                of observed sites matter.
            site: Name of the observed site.
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
        """Return the mean of p(x | z) with z drawn from the guide: (n, x_dim) for n data."""
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
        """Write the weights and, as JSON in the header, the arguments to one safetensors file."""
        weights = {name: as_numpy(value) for name, value in self.state_dict().items()}
        safetensors_file.write(Path(path), weights, self.describe())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the model of a file that `save` wrote in either backend, on the CPU.

        `Model.load` accepts a file of any model class, `M2.load` one of M2 or its subclasses. Your
        own classes must be defined before. `__init__` is called twice, first on torch's device
        "meta" to compare the shapes, so that a file cannot request more memory than its own size.

        Raises:
            ValueError: The file is damaged, or holds another class or other weights.
        """
        weights, description = safetensors_file.read(Path(path))
        with safetensors_file.of_a_model(Path(path)):
            with torch.device("meta"):
                shapes = cls.from_description(description)
            shapes._check_file(weights)
            return cls.from_description(description).with_weights(weights)

    def with_weights(self, weights: Mapping[str, Any]) -> Self:
        """Load weights in place: arrays of any kind, by torch's parameter names.

        Raises:
            ValueError: A name is missing or unknown, or a shape or kind of number differs.
        """
        arrays = {name: as_numpy(value) for name, value in weights.items()}
        self._check_weights(arrays)
        self.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
        return self

    def _check_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        check_arrays(type(self).__name__, self.state_dict(), weights)

    def _check_file(self, weights: Mapping[str, np.ndarray]) -> None:
        """Check that a file's arrays are finite and match this model, made on device "meta"."""
        self._check_weights(weights)
        not_stored = sum(v.numel() for name, v in self.named_buffers() if name not in weights)
        check_sizes(not_stored, weights, [name for name, _ in self.named_parameters()])


def check_model(model: Any) -> None:
    """Check that `model` is a model/guide pair of this backend; raises a ValueError if not."""
    check_type("model", model, Model, "a ppl_vae Model")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a module to evaluation mode (no dropout, running statistics) temporarily."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextmanager
def keeping_buffers(module: nn.Module) -> Iterator[None]:
    """Restore a module's buffers, such as running statistics, afterwards."""
    before = {name: value.clone() for name, value in module.named_buffers()}
    try:
        yield
    finally:
        for name, value in module.named_buffers():
            value.copy_(before[name])


class ClassifierMixin(LabelChecks):
    """Base class of models with a network `classifier`: class probabilities as in scikit-learn."""

    def classify(self: Any, x: Tensor) -> Any:
        """Return q(y | x), a distribution over classes, for x of shape (n, x_dim)."""
        return self.classifier(x)

    @torch.no_grad()
    def predict_proba(self: Any, x: Any) -> Tensor:
        """Return q(y | x), shape (n, n_classes), for an array or tensor of shape (n, x_dim).

        Resampled data (`ppl_vae.data.Dynamic`, `NormalFeatures`) are replaced by their means.
        """
        x = to_mean(x)
        self.check(x)
        with evaluating(self):
            probs: Tensor = self.classify(*self.as_tensors(x)).probs
        return probs

    def predict(self, x: Any) -> Tensor:
        """Return the most probable class, shape (n,), for x of shape (n, x_dim)."""
        return self.predict_proba(x).argmax(-1)
