"""What every NumPyro model/guide pair shares: its arguments, its file, its samples."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from jax.tree_util import GetAttrKey, SequenceKey
from numpyro import handlers
from numpyro.primitives import mutable

from ppl_vae.numpyro.models.networks.layers import Network
from ppl_vae.shared.checks import as_numpy, check_lengths, check_type, check_whole, to_mean
from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.io.stored_weights import check_arrays, check_sizes


class Model(Network):
    """A model p(x, z) and its guide q(z | x): the methods `model(*data)` and `guide(*data)`.

    As `ppl_vae.models.Model`, but for what never changes: an instance. `with_weights` returns a new
    one.

    NumPyro users: `SVI(m.model, m.guide, numpyro.optim.Adam(...), ELBO())` trains the parameters of
    `m`, which both programs show as `numpyro.param` sites by torch's names; the trained model is
    `m.with_weights(svi.get_params(state))`. Running statistics of `BatchNorm` are mutable sites,
    whose values are in `state.mutable_state`: {name: {"value": array}}.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("model", "guide"):
            if name in cls.__dict__:
                setattr(cls, name, _shown_to_numpyro(cls.__dict__[name]))

    def model(self, *data: Any) -> None:
        """The generative model, a NumPyro program: p(x, z)."""
        raise TypeError(f"{type(self).__name__} should define model(*data), which it does not")

    def guide(self, *data: Any) -> None:
        """The approximate posterior, a NumPyro program: q(z | x)."""
        raise TypeError(f"{type(self).__name__} should define guide(*data), which it does not")

    def check(self, *data: Any) -> None:
        """Raises a ValueError that names what is wrong with `data`, the arguments of `model`."""
        check_lengths(*data)

    @staticmethod
    def support(network: Any) -> tuple[float, float]:
        """The interval of values that the distributions of `network` are for."""
        low, high = getattr(network, "support", (-np.inf, np.inf))
        return float(low), float(high)

    def blank(self, n: int) -> tuple[Array, ...]:
        """Data of size n without content, which tell `sample` the shapes of the observed sites."""
        x_dim: int = self.x_dim  # type: ignore[attr-defined]
        return (jnp.zeros((n, x_dim)),)

    def sample(self, n: int, *, key: Array) -> dict[str, Array]:
        """n draws of every site of the model, observed sites included: site -> (n, ...)."""
        check_whole("n", n, 1)
        return self.simulate(*self.blank(n), key=key)

    def simulate(self, *data: Array, key: Array) -> dict[str, Array]:
        """A draw of every site of the model; of observed sites `data` tell no more than shapes."""
        program = handlers.seed(handlers.uncondition(self.model), key)
        sites = handlers.trace(program).get_trace(*data).values()
        return {site["name"]: site["value"] for site in sites if site["type"] == "sample"}

    def decode(self, latents: Mapping[str, Any], *data: Any, site: str = "x") -> Array:
        """The mean of p(x | z) at given z: (n, x_dim) for latents of shape (n, ...) by their sites.

        Args:
            latents: What `sample` returned, say; sites that are not latent are left out.
            data: The arguments of `model`, of which no more than observed conditions and the
                shapes matter; by default `blank(n)`.
            site: The observed site.
        """
        given = {name: as_jax(value) for name, value in latents.items() if name != site}
        if not given:
            raise ValueError("latents should hold the values of latent sites, was empty")
        n = len(next(iter(given.values())))
        program = handlers.seed(handlers.substitute(self.model, given), jax.random.key(0))
        sites = handlers.trace(program).get_trace(*(map(as_jax, data) if data else self.blank(n)))
        mean: Array = sites[site]["fn"].mean
        return mean

    def reconstruct(self, *data: Any, key: Array, site: str = "x") -> Array:
        """The mean of p(x | z) with z drawn from the guide: (n, x_dim) for data of n rows."""
        self.check(*data)
        data = tuple(as_jax(part) for part in data)
        for_guide, for_model = jax.random.split(key)
        guide = handlers.trace(handlers.seed(self.guide, for_guide)).get_trace(*data)
        replayed = handlers.replay(handlers.seed(self.model, for_model), guide)
        sites = handlers.trace(replayed).get_trace(*data)
        observed = [name for name, node in sites.items() if node.get("is_observed")]
        if site not in observed:
            raise ValueError(f"site should be an observed one, of {observed}, was {site!r}")
        mean: Array = sites[site]["fn"].mean
        return mean

    def state_dict(self) -> dict[str, np.ndarray]:
        """The weights by torch's names, running statistics included."""
        return {name: np.asarray(value) for name, value in _arrays(self).items()}

    def save(self, path: str | Path) -> None:
        """Writes the arguments (JSON, in the header) and the weights to one safetensors file."""
        safetensors_file.write(Path(path), self.state_dict(), self.describe())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The model that `save` wrote, in this backend or in the other.

        A class of your own must be defined before; its `__init__` is called twice, first under
        `jax.eval_shape` to compare the shapes, so that a file cannot ask for more memory than it
        holds.

        Raises:
            ValueError: the file is damaged, or holds another class or other weights.
        """
        weights, description = safetensors_file.read(Path(path))
        key = jax.random.key(0)  # of the weights that are replaced at once
        with safetensors_file.of_a_model(Path(path)):
            shapes = jax.eval_shape(
                lambda key: _arrays(cls.from_description(description, key=key)), key
            )
            check_arrays(cls.__name__, shapes, weights)
            check_sizes(0, weights, [name for name in shapes if not _is_buffer(name)])
            return cls.from_description(description, key=key).with_weights(weights)

    def with_weights(self, weights: Mapping[str, Any]) -> Self:
        """This model with other weights (arrays of any kind, by torch's parameter names).

        Raises:
            ValueError: a name is missing or unknown, or a shape or kind of number is another one.
        """
        own = _arrays(self)
        new = {name: as_jax(value) for name, value in weights.items()}
        check_arrays(type(self).__name__, own, new)
        new = {name: new[name].astype(value.dtype) for name, value in own.items()}
        changed: Self = with_parameters(self, new)
        return changed


def check_model(model: Any) -> None:
    """Raises a ValueError unless `model` is a model/guide pair of this backend."""
    check_type("model", model, Model, "a ppl_vae.numpyro Model")


class ClassifierMixin:
    """Class probabilities from the network `classifier`, under scikit-learn's names."""

    def classify(self: Any, x: Array) -> Any:
        """q(y | x), a distribution over classes for x of shape (n, x_dim)."""
        return self.classifier(x)

    def predict_proba(self: Any, x: Any) -> Array:
        """q(y | x): (n, n_classes) for x of shape (n, x_dim), an array of any kind.

        Of data that are drawn anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) the means are taken.
        """
        x = to_mean(x)
        self.check(x)
        probs: Array = self.classify(as_jax(x)).probs
        return probs

    def predict(self, x: Any) -> Array:
        """The most probable class: (n,) for x of shape (n, x_dim)."""
        probs: Array = self.predict_proba(x)
        return probs.argmax(-1)


def parameters(module: eqx.Module) -> dict[str, Array]:
    """The arrays of a module that are trained, by torch's names ("encoder.trunk.layers.0.weight").

    These are the floating ones, without `buffers`.
    """
    return {name: value for name, value in _arrays(module).items() if not _is_buffer(name)}


def buffers(module: eqx.Module) -> dict[str, Array]:
    """The running statistics of a module's `BatchNorm`s, which training changes, by torch's names.

    Inside a program, where they are mutable sites, {"value": array} each.
    """
    return {name: value for name, value in _arrays(module).items() if _is_buffer(name)}


def with_parameters(module: Any, values: Mapping[str, Any]) -> Any:
    """The module with `values` in the place of its `parameters` or `buffers` of these names."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(module, is_leaf=_is_held)
    return jax.tree.unflatten(structure, [values.get(_dotted(path), v) for path, v in leaves])


def _arrays(module: eqx.Module) -> dict[str, Array]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(module, is_leaf=_is_held)
    return {
        _dotted(path): value
        for path, value in leaves
        if eqx.is_inexact_array(value) or _is_held(value)
    }


def _is_buffer(name: str) -> bool:
    return name.rpartition(".")[-1] in ("running_mean", "running_var")


def _is_held(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"value"}


def _dotted(path: tuple[Any, ...]) -> str:
    parts = []
    for entry in path:
        if isinstance(entry, GetAttrKey):
            parts.append(entry.name)
        else:
            parts.append(str(entry.idx if isinstance(entry, SequenceKey) else entry.key))
    return ".".join(parts)


def as_jax(value: Any) -> Array:
    """An array of any kind as one of jax."""
    # A copy: asarray may share the memory of a torch tensor that is trained in place later on.
    return value if isinstance(value, jax.Array) else jnp.array(as_numpy(value))


def _shown_to_numpyro(program: Callable[..., None]) -> Callable[..., None]:
    """`program`, which shows its module's arrays as sites and uses their values.

    Parameters are `numpyro.param` sites, which SVI finds and replaces. Where nothing replaces them
    they are the module's own, through which `fit` differentiates. Buffers are mutable sites.
    """

    @functools.wraps(program)
    def shown(self: Model, *data: Any, **kwargs: Any) -> None:
        values = {name: numpyro.param(name, value) for name, value in parameters(self).items()}
        for name, value in buffers(self).items():
            held = value if _is_held(value) else {"value": value}
            values[name] = mutable(name, held)
        program(with_parameters(self, values), *data, **kwargs)

    return shown
