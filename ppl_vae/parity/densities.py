"""Check that model and port have the same log densities, gradients and running statistics."""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpyro import handlers
from pyro.poutine.messenger import Messenger

from ppl_vae.inference import draws as in_pyro
from ppl_vae.inference.objectives.parts.elbo_terms import elbo_of_globals as globals_in_pyro
from ppl_vae.inference.objectives.parts.elbo_terms import elbo_per_datum as bound_in_pyro
from ppl_vae.models.base import Model, check_model
from ppl_vae.models.networks.layers import MLP
from ppl_vae.numpyro.inference import draws as in_numpyro
from ppl_vae.numpyro.inference.objectives.parts.base import SharedState
from ppl_vae.numpyro.inference.objectives.parts.elbo_terms import (
    elbo_of_globals as globals_in_numpyro,
)
from ppl_vae.numpyro.inference.objectives.parts.elbo_terms import elbo_per_datum as bound_in_numpyro
from ppl_vae.numpyro.models.base import Model as Port
from ppl_vae.numpyro.models.base import buffers, parameters, with_parameters
from ppl_vae.numpyro.models.networks.layers import training as port_training
from ppl_vae.parity.comparisons import check_arrays, check_names
from ppl_vae.shared.checks import as_numpy, check_type, check_whole

Arrays: TypeAlias = dict[str, np.ndarray]
BOUND = "the bound"


@dataclass(frozen=True)
class _Result:
    """The log densities by site, gradients by site and parameter, and buffers after a run."""

    kinds: dict[str, tuple[bool, int | None]]
    values: Arrays
    gradients: dict[str, Arrays]
    buffers: Arrays


def assert_parity(
    model: Model,
    port: Port,
    *data: Any,
    k: int = 1,
    tolerance: float = 1e-9,
    max_plate_nesting: int = 1,
    training: bool = False,
) -> None:
    """Check that model and port agree on all log densities and all gradients.

    Both run in float64 with the model's weights, the same data and the same latent variables, which
    Pyro's guide draws; enumerated sites are enumerated by each backend. Elementwise comparisons
    cover the log densities of all sites of model and guide, the bound of each datum, and the
    gradient of each of these by every parameter. The latents are fixed: score-function gradients
    are compared, pathwise gradients are not. Neither argument is changed.

    Args:
        model: The Pyro model.
        port: The NumPyro model; its weights are not used.
        data: The arguments of both programs: arrays of any kind.
        k: Number of particles.
        tolerance: Maximum difference, relative for numbers larger than 1.
        max_plate_nesting: Number of plate dimensions of the programs.
        training: Whether both are in training mode; the running statistics of `BatchNorm` after a
            run of guide and model are then compared, too.

    Raises:
        AssertionError: They differ; names the site or parameter and the largest difference.
        ValueError: `training` is True for a model with dropout, which differs between backends.
    """
    check_model(model)
    check_type("port", port, Port, "a ppl_vae.numpyro Model")
    check_whole("k", k, 1)
    model.check(*data)
    if training:
        _check_no_dropout(model)
    settings = {"k": k, "max_plate_nesting": max_plate_nesting}
    model64 = copy.deepcopy(model).double().eval()
    arrays = [as_numpy(part) for part in data]
    arrays = [part.astype(np.float64) if part.dtype.kind == "f" else part for part in arrays]
    _compare_parameters(model64, port)
    latents = _latents(model64, arrays, settings)
    weights = {name: as_numpy(value).copy() for name, value in model64.state_dict().items()}
    ours = _run_pyro(model64.train(training), arrays, latents, settings)
    with float64(), port_training() if training else nullcontext():
        theirs = _run_numpyro(port, weights, arrays, latents, settings)
    _compare(ours, theirs, tolerance)


def float64() -> AbstractContextManager[Any]:
    """Return a context in which JAX computes in float64."""
    # Older versions of jax have it in jax.experimental.
    home: Any = jax if hasattr(jax, "enable_x64") else import_module("jax.experimental")
    enabled: AbstractContextManager[Any] = home.enable_x64(True)
    return enabled


def _compare_parameters(model: Model, port: Port) -> None:
    for kind, values, others in (
        ("parameter", dict(model.named_parameters()), parameters(port)),
        ("buffer", _buffers(model), buffers(port)),
    ):
        ours = {name: tuple(value.shape) for name, value in values.items()}
        theirs = {name: value.shape for name, value in others.items()}
        check_names(kind, set(ours), set(theirs))
        for name, shape in ours.items():
            if shape != theirs[name]:
                raise AssertionError(
                    f"{kind} {name!r} has shape {shape} in Pyro, {theirs[name]} in NumPyro"
                )


def _buffers(model: Model) -> dict[str, torch.Tensor]:
    """Return the buffers that are saved."""
    trained = dict(model.named_parameters())
    return {name: value for name, value in model.state_dict().items() if name not in trained}


def _check_no_dropout(model: Model) -> None:
    for name, module in model.named_modules():
        if isinstance(module, MLP) and (module.dropout_in or module.dropout_hidden):
            rates = (module.dropout_in, module.dropout_hidden)
            raise ValueError(
                f"training should be False with dropout, was True with {name}'s {rates}"
            )


def _latents(model: Model, arrays: list[np.ndarray], settings: Mapping[str, int]) -> Arrays:
    """Draw the guide's sites that are not enumerated; the global RNG state is restored."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        drawn = in_pyro.draw(model.model, model.guide, *map(torch.tensor, arrays), **settings)
    sites = [site for site in drawn.guide.values() if not site.observed and site.enum_dim is None]
    return {site.name: as_numpy(site.value) for site in sites}


def _run_pyro(
    model: Model, arrays: list[np.ndarray], latents: Arrays, settings: Mapping[str, int]
) -> _Result:
    fixed = _Fixed({name: torch.tensor(value) for name, value in latents.items()})
    with fixed:
        drawn = in_pyro.draw(model.model, model.guide, *map(torch.tensor, arrays), **settings)
    values = _log_probs(drawn)
    nesting = settings["max_plate_nesting"]
    values[BOUND] = bound_in_pyro(drawn, max_plate_nesting=nesting) + globals_in_pyro(drawn)
    weights = dict(model.named_parameters())
    trained = [name for name, weight in weights.items() if weight.requires_grad]
    gradients = {}
    for site, value in values.items():
        total = (value * torch.tensor(_weights(tuple(value.shape)))).sum()
        found: dict[str, Any] = {}
        if total.requires_grad:
            by = [weights[name] for name in trained]
            grads = torch.autograd.grad(total, by, retain_graph=True, allow_unused=True)
            found = dict(zip(trained, grads, strict=True))
        gradients[site] = {
            name: np.zeros(tuple(w.shape)) if found.get(name) is None else as_numpy(found[name])
            for name, w in weights.items()
        }
    moved = {name: as_numpy(value) for name, value in _buffers(model).items()}
    return _Result(_kinds(drawn), {n: as_numpy(v) for n, v in values.items()}, gradients, moved)


class _Fixed(Messenger):
    """Gives latent sites their values; unlike `condition` it leaves distributions to the plates."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["value"] is None:
            msg["value"] = self.values.get(msg["name"])


def _run_numpyro(
    port: Port,
    weights: Mapping[str, Any],
    arrays: list[np.ndarray],
    latents: Arrays,
    settings: Mapping[str, Any],
) -> _Result:
    own = {name: jnp.asarray(weights[name]) for name in parameters(port)}
    fresh = {name: jnp.asarray(weights[name]) for name in buffers(port)}
    data = [jnp.asarray(part) for part in arrays]
    fixed = {name: jnp.asarray(value) for name, value in latents.items()}
    kinds: dict[str, tuple[bool, int | None]] = {}

    def run(weights: Mapping[str, jax.Array]) -> tuple[dict[str, jax.Array], Any]:
        this = with_parameters(port, {**weights, **fresh})
        guide = handlers.substitute(this.guide, data=fixed)
        held = SharedState()
        with held:
            drawn = in_numpyro.draw(this.model, guide, *data, key=jax.random.key(0), **settings)
        kinds.update(_kinds(drawn))
        values: dict[str, jax.Array] = _log_probs(drawn)
        nesting = settings["max_plate_nesting"]
        bound = bound_in_numpyro(drawn, max_plate_nesting=nesting) + globals_in_numpyro(drawn)
        moved = {name: held.values[name]["value"] for name in fresh}
        return {**values, BOUND: bound}, moved

    def with_gradients(weights: Mapping[str, jax.Array]) -> Any:
        values, pull, moved = jax.vjp(run, weights, has_aux=True)
        nothing = {name: jnp.zeros_like(value) for name, value in values.items()}
        gradients = {
            site: pull({**nothing, site: jnp.asarray(_weights(value.shape))})[0]
            for site, value in values.items()
        }
        return values, gradients, moved

    return _Result(kinds, *jax.tree.map(np.asarray, jax.jit(with_gradients)(own)))


def _log_probs(drawn: Any) -> dict[str, Any]:
    sides = (("model", drawn.model), ("guide", drawn.guide))
    return {f"{side}: {n}": site.log_prob for side, sites in sides for n, site in sites.items()}


def _kinds(drawn: Any) -> dict[str, tuple[bool, int | None]]:
    """Return whether each site is observed, and the dimension along which it is enumerated."""
    sides = (("model", drawn.model), ("guide", drawn.guide))
    return {
        f"{side}: {n}": (site.observed, site.enum_dim)
        for side, sites in sides
        for n, site in sites.items()
    }


def _weights(shape: tuple[int, ...]) -> np.ndarray:
    """Return distinct weights, so that differences of elements do not cancel in a gradient."""
    return np.cos(np.arange(np.prod(shape, dtype=int), dtype=np.float64)).reshape(shape)


def _compare(ours: _Result, theirs: _Result, tolerance: float) -> None:
    check_names("site", set(ours.kinds), set(theirs.kinds))
    for name, kind in ours.kinds.items():
        if kind != theirs.kinds[name]:
            raise AssertionError(
                f"site {name!r} is (observed, enumerated along) {kind} in Pyro, "
                f"{theirs.kinds[name]} in NumPyro"
            )
    for name, value in ours.values.items():
        check_arrays(f"the log density of site {name!r}", value, theirs.values[name], tolerance)
    for name, gradients in ours.gradients.items():
        for parameter, value in gradients.items():
            what = f"the gradient of {name!r} by parameter {parameter!r}"
            check_arrays(what, value, theirs.gradients[name][parameter], tolerance)
    for name, value in ours.buffers.items():
        check_arrays(f"buffer {name!r} after a run", value, theirs.buffers[name], tolerance)
