"""See `ppl_vae.models.base`."""

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
from ppl_vae.shared.checks import as_numpy, check_type, check_whole, to_mean
from ppl_vae.shared.io import safetensors_file
from ppl_vae.shared.io.stored_weights import check_arrays, check_sizes
from ppl_vae.shared.model_checks import DataChecks, LabelChecks


class Model(DataChecks, Network):
    """See `ppl_vae.models.Model`; instances are immutable: `with_weights` returns a new one.

    NumPyro users: `SVI(m.model, m.guide, numpyro.optim.Adam(...), ELBO())` trains the parameters of
    `m`, which both programs register as `numpyro.param` sites under torch's names. The trained
    model is `m.with_weights(svi.get_params(state))`. Running statistics of `BatchNorm` are mutable
    sites with values in `state.mutable_state`: {name: {"value": array}}.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("model", "guide"):
            if name in cls.__dict__:
                setattr(cls, name, _registering_parameters(cls.__dict__[name]))

    def model(self, *data: Any) -> None:
        """See `ppl_vae.models.Model.model`; a NumPyro program."""
        raise TypeError(f"{type(self).__name__} should define model(*data), which it does not")

    def guide(self, *data: Any) -> None:
        """See `ppl_vae.models.Model.guide`; a NumPyro program."""
        raise TypeError(f"{type(self).__name__} should define guide(*data), which it does not")

    def blank(self, n: int) -> tuple[Array, ...]:
        """See `ppl_vae.models.Model.blank`."""
        return (jnp.zeros((n, self.x_dim)),)

    def sample(self, n: int, *, key: Array) -> dict[str, Array]:
        """See `ppl_vae.models.Model.sample`; takes a keyword-only `key`."""
        check_whole("n", n, 1)
        return self.simulate(*self.blank(n), key=key)

    def simulate(self, *data: Array, key: Array) -> dict[str, Array]:
        """See `ppl_vae.models.Model.simulate`; takes a keyword-only `key`."""
        program = handlers.seed(handlers.uncondition(self.model), key)
        sites = handlers.trace(program).get_trace(*data).values()
        return {site["name"]: site["value"] for site in sites if site["type"] == "sample"}

    def decode(self, latents: Mapping[str, Any], *data: Any, site: str = "x") -> Array:
        """See `ppl_vae.models.Model.decode`."""
        given = {name: as_jax(value) for name, value in latents.items() if name != site}
        if not given:
            raise ValueError("latents should hold the values of latent sites, was empty")
        n = len(next(iter(given.values())))
        program = handlers.seed(handlers.substitute(self.model, given), jax.random.key(0))
        sites = handlers.trace(program).get_trace(*(map(as_jax, data) if data else self.blank(n)))
        mean: Array = sites[site]["fn"].mean
        return mean

    def reconstruct(self, *data: Any, key: Array, site: str = "x") -> Array:
        """See `ppl_vae.models.Model.reconstruct`; takes a keyword-only `key`."""
        self.check(*data)
        data = tuple(map(as_jax, data))
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
        """Return the weights by torch's names, running statistics included."""
        return {name: np.asarray(value) for name, value in _named_arrays(self).items()}

    def save(self, path: str | Path) -> None:
        """See `ppl_vae.models.Model.save`."""
        safetensors_file.write(Path(path), self.state_dict(), self.describe())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """See `ppl_vae.models.Model.load`; shapes are compared under `jax.eval_shape`."""
        weights, description = safetensors_file.read(Path(path))
        key = jax.random.key(0)  # for initial weights that are replaced at once
        with safetensors_file.of_a_model(Path(path)):
            shapes = jax.eval_shape(
                lambda key: _named_arrays(cls.from_description(description, key=key)), key
            )
            check_arrays(cls.__name__, shapes, weights)
            check_sizes(0, weights, [name for name in shapes if not _is_buffer(name)])
            return cls.from_description(description, key=key).with_weights(weights)

    def with_weights(self, weights: Mapping[str, Any]) -> Self:
        """See `ppl_vae.models.Model.with_weights`; returns a new model."""
        own = _named_arrays(self)
        new = {name: as_jax(value) for name, value in weights.items()}
        check_arrays(type(self).__name__, own, new)
        new = {name: new[name].astype(value.dtype) for name, value in own.items()}
        changed: Self = with_parameters(self, new)
        return changed


def check_model(model: Any) -> None:
    """Check that `model` is a model/guide pair of this backend; raises a ValueError if not."""
    check_type("model", model, Model, "a ppl_vae.numpyro Model")


class ClassifierMixin(LabelChecks):
    """See `ppl_vae.models.ClassifierMixin`."""

    def classify(self: Any, x: Array) -> Any:
        """See `ppl_vae.models.ClassifierMixin.classify`."""
        return self.classifier(x)

    def predict_proba(self: Any, x: Any) -> Array:
        """See `ppl_vae.models.ClassifierMixin.predict_proba`."""
        x = to_mean(x)
        self.check(x)
        probs: Array = self.classify(as_jax(x)).probs
        return probs

    def predict(self, x: Any) -> Array:
        """See `ppl_vae.models.ClassifierMixin.predict`."""
        probs: Array = self.predict_proba(x)
        return probs.argmax(-1)


def parameters(module: eqx.Module) -> dict[str, Array]:
    """Return the trained arrays by torch's names, such as "encoder.trunk.layers.0.weight".

    These are the floating arrays other than `buffers`.
    """
    return {name: value for name, value in _named_arrays(module).items() if not _is_buffer(name)}


def buffers(module: eqx.Module) -> dict[str, Array]:
    """Return the running statistics of a module's `BatchNorm`s by torch's names.

    Inside a program they are mutable sites, {"value": array} each.
    """
    return {name: value for name, value in _named_arrays(module).items() if _is_buffer(name)}


def with_parameters(module: Any, values: Mapping[str, Any]) -> Any:
    """Return the module with new values of its `parameters` or `buffers` of these names."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(module, is_leaf=_is_mutable_site)
    return jax.tree.unflatten(structure, [values.get(_torch_name(path), v) for path, v in leaves])


def _named_arrays(module: eqx.Module) -> dict[str, Array]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(module, is_leaf=_is_mutable_site)
    return {
        _torch_name(path): value
        for path, value in leaves
        if eqx.is_inexact_array(value) or _is_mutable_site(value)
    }


def _is_buffer(name: str) -> bool:
    return name.rpartition(".")[-1] in ("running_mean", "running_var")


def _is_mutable_site(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"value"}


def _torch_name(path: tuple[Any, ...]) -> str:
    parts = []
    for entry in path:
        if isinstance(entry, GetAttrKey):
            parts.append(entry.name)
        else:
            parts.append(str(entry.idx if isinstance(entry, SequenceKey) else entry.key))
    return ".".join(parts)


def as_jax(value: Any) -> Array:
    """Return an array of any kind as a jax array."""
    # A copy: asarray may share memory with a torch tensor that is later trained in place.
    return value if isinstance(value, jax.Array) else jnp.array(as_numpy(value))


def _registering_parameters(program: Callable[..., None]) -> Callable[..., None]:
    """Wrap a method `model` or `guide` so that its module's arrays are sites of the program.

    Parameters are `numpyro.param` sites, which SVI finds and substitutes. Without a handler they
    have the module's own values, through which `fit` differentiates. Buffers are mutable sites.
    """

    @functools.wraps(program)
    def wrapped(self: Model, *data: Any, **kwargs: Any) -> None:
        values = {name: numpyro.param(name, value) for name, value in parameters(self).items()}
        for name, value in buffers(self).items():
            site = value if _is_mutable_site(value) else {"value": value}
            values[name] = mutable(name, site)
        program(with_parameters(self, values), *data, **kwargs)

    return wrapped
