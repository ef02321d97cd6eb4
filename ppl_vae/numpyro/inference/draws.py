"""See `ppl_vae.inference.draws`."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpyro
from jax import Array, lax
from numpyro import handlers
from numpyro.distributions import Distribution, ExpandedDistribution, MaskedDistribution
from numpyro.primitives import Messenger
from numpyro.util import check_model_guide_match

from ppl_vae.shared.checks import check_whole

Program: TypeAlias = Callable[..., Any]
Mask: TypeAlias = bool | Array | None


@dataclass(frozen=True)
class Site:
    """See `ppl_vae.inference.draws.Site`."""

    name: str
    fn: Distribution
    value: Array
    log_prob: Array
    mask: Mask
    scale: float | Array
    observed: bool
    local: bool
    enum_dim: int | None

    @property
    def needs_score_function(self) -> bool:
        return not self.observed and self.enum_dim is None and not self.fn.has_rsample


@dataclass(frozen=True)
class Draws:
    """See `ppl_vae.inference.draws.Draws`."""

    model: dict[str, Site]
    guide: dict[str, Site]


def draw(
    model: Program,
    guide: Program,
    *data: Any,
    k: int = 1,
    max_plate_nesting: int = 1,
    key: Array,
    **kwargs: Any,
) -> Draws:
    """See `ppl_vae.inference.draws.draw`; takes a keyword-only `key`."""
    check_whole("k", k, 1)
    check_whole("max_plate_nesting", max_plate_nesting, 1)
    if any(getattr(part, "shape", ())[:1] == (0,) for part in data):
        raise ValueError("data should hold at least one datum, was empty")
    particle_dim = -1 - max_plate_nesting
    for_guide, for_model = jax.random.split(key)
    enumeration = _Enumeration(particle_dim - 1)

    def run(program: Program, key: Array) -> Any:
        # The trace is innermost, so that it records the values that enumeration has set.
        with handlers.seed(rng_seed=key), enumeration, handlers.trace() as trace:
            if k > 1:
                with numpyro.plate("particles", k, dim=particle_dim):
                    program(*data, **kwargs)
            else:
                program(*data, **kwargs)
        return trace

    try:
        guide_trace = run(guide, for_guide)
        # The model's enumeration continues after the guide's.
        model_trace = run(handlers.replay(model, _latents(guide_trace)), for_model)
    except AssertionError as error:
        _check_collision(error, particle_dim)
        raise
    _check_one_data_plate(guide_trace, model_trace)
    draws = Draws(
        sites_of(model_trace, max_plate_nesting), sites_of(guide_trace, max_plate_nesting)
    )
    for site in draws.model.values():
        if not (site.observed or site.enum_dim is not None or site.name in draws.guide):
            raise ValueError(
                f"site {site.name!r} should be given as data or drawn by the guide, was neither"
            )
    check_model_guide_match(_names(model_trace), _names(guide_trace))
    return draws


def _check_collision(error: AssertionError, particle_dim: int) -> None:
    """Name two plates with one dimension.

    The traceback is inspected because NumPyro asserts this without a message, and before a handler
    can see the dimension of the new plate.
    """
    frame = list(traceback.walk_tb(error.__traceback__))[-1][0]
    if frame.f_code is not numpyro.plate._subsample.__code__:
        return
    name, dim = frame.f_locals["name"], frame.f_locals["dim"]
    others = [other.name for other in frame.f_locals["cond_indep_stack"] if other.dim == dim]
    if others == ["particles"]:
        raise ValueError(
            f"max_plate_nesting should be at least {-dim} for the plate {name!r} at dim {dim}, "
            f"was {-1 - particle_dim}"
        ) from error
    raise ValueError(
        f"plate {name!r} should have a dim of its own, was at dim {dim} with {others}"
    ) from error


def _check_one_data_plate(*traces: Any) -> None:
    """Check that plates at dimension -1 have one size; other sizes would be added to each datum."""
    sizes: dict[str, int] = {}
    for trace in traces:
        for node in trace.values():
            for frame in node.get("cond_indep_stack", ()):
                if frame.dim == -1:
                    sizes[frame.name] = frame.size
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"plates at dim -1 should have one size, that of the data, had {sizes}: use another dim"
        )


class _Enumeration(Messenger):  # type: ignore[misc]
    """Enumerate marked sites, and stop gradients of draws without reparametrisation."""

    def __init__(self, first_available_dim: int) -> None:
        super().__init__()
        self.dim = first_available_dim

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"] or msg["value"] is not None:
            return
        if msg["infer"].get("enumerate") != "parallel" or not msg["fn"].has_enumerate_support:
            return
        fn = msg["fn"]
        values = fn.enumerate_support(expand=False)
        msg["value"] = values.reshape((len(values),) + (1,) * (-1 - self.dim) + fn.event_shape)
        msg["infer"] = {**msg["infer"], "_enumerate_dim": self.dim}
        self.dim -= 1

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and not msg["is_observed"] and not msg["fn"].has_rsample:
            msg["value"] = lax.stop_gradient(msg["value"])
            # Intermediates hold the value with its gradient, and would take its place.
            msg["intermediates"] = []


def _latents(trace: Any) -> dict[str, Any]:
    return {name: site for name, site in trace.items() if not site.get("is_observed")}


def _names(trace: Any) -> dict[str, Any]:
    """Return the trace without distributions, as enumeration may change their shapes."""
    return {name: {**site, "fn": None} for name, site in trace.items()}


def sites_of(trace: Any, max_plate_nesting: int) -> dict[str, Site]:
    """See `ppl_vae.inference.draws.sites_of`."""
    nodes = [node for node in trace.values() if node["type"] == "sample"]
    return {node["name"]: _site(node, max_plate_nesting) for node in nodes}


def _site(node: Any, max_plate_nesting: int) -> Site:
    frames = node["cond_indep_stack"]
    inner = [frame for frame in frames if frame.name != "particles" and frame.dim < -1]
    for frame in inner:
        if frame.dim < -max_plate_nesting:
            raise ValueError(
                f"max_plate_nesting should be at least {-frame.dim} for the plate {frame.name!r} "
                f"at dim {frame.dim}, was {max_plate_nesting}"
            )
    enum_dim = node["infer"].get("_enumerate_dim") if not node["is_observed"] else None
    if enum_dim is not None and inner:
        raise ValueError(
            f"site {node['name']!r} should be enumerated in the data plate alone, was in "
            f"{[frame.name for frame in inner]}"
        )
    return Site(
        name=node["name"],
        fn=node["fn"],
        value=node["value"],
        log_prob=_log_prob(node, max_plate_nesting),
        mask=unwrap(node["fn"])[1],
        scale=1.0 if node["scale"] is None else node["scale"],
        observed=node["is_observed"],
        local=any(frame.dim == -1 for frame in frames),
        enum_dim=None if enum_dim is None else enum_dim + max_plate_nesting - 1,
    )


def unwrap(fn: Distribution) -> tuple[Distribution, Mask]:
    """Return the distribution without the wrappers of plates and masks, and its mask."""
    mask: Mask = None
    while isinstance(fn, ExpandedDistribution | MaskedDistribution):
        if isinstance(fn, MaskedDistribution):
            mask = fn._mask if mask is None else mask & fn._mask
        fn = fn.base_dist
    return fn, mask


def _log_prob(node: Any, max_plate_nesting: int) -> Array:
    extra = (node["intermediates"],) if node["intermediates"] else ()
    return per_datum(jnp.asarray(node["fn"].log_prob(node["value"], *extra)), max_plate_nesting)


def per_datum(value: Array, max_plate_nesting: int) -> Array:
    """See `ppl_vae.inference.draws.per_datum`."""
    missing = max_plate_nesting + 1 - value.ndim
    value = value.reshape((1,) * missing + value.shape)
    inner = tuple(range(-max_plate_nesting, -1))
    return value.sum(inner) if inner else value
