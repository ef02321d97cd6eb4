"""The one place that runs model and guide, as `ppl_vae.inference.draws`."""

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
    """What one sample site of a program did, as `ppl_vae.inference.draws.Site`.

    Attributes:
        name: The site's name.
        fn: Its distribution.
        value: Its value.
        log_prob: log fn(value) with masks applied and scales not, shape (..., K, N): dimensions
            further left enumerate discrete sites. N is 1 for a site outside the data plate.
        mask: The mask that was applied to `log_prob`, if any.
        scale: What the log density counts for (subsampling, `handlers.scale`), a number or an array
            that broadcasts against `log_prob`.
        observed: Whether the value was given.
        local: Whether the site lies in the data plate, dimension -1.
        enum_dim: The (negative) dimension of `log_prob` along which the site is enumerated, if any.
    """

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
        """Whether its gradient needs the score function: drawn, but not by reparametrisation."""
        return not self.observed and self.enum_dim is None and not self.fn.has_rsample


@dataclass(frozen=True)
class Draws:
    """K draws from the guide and the model run against them.

    Attributes:
        model: The model's sites by name, in the order of the program.
        guide: The guide's sites by name, likewise.
    """

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
    """Runs the guide and then the model against it, once, for K particles side by side.

    Particles are a plate at dimension -1 - max_plate_nesting, so programs must accept leading
    dimensions (with k = 1 there is no such plate). Sites marked `infer={"enumerate": "parallel"}`
    take all their values, along dimensions further left.

    Args:
        model: A NumPyro program p(x, z) of `data`.
        guide: A NumPyro program q(z | x) of `data`.
        data: Arguments of both programs.
        k: Number of particles K.
        max_plate_nesting: Number of plate dimensions of the programs; the last, -1, is that of the
            data, and others are summed over within a datum.
        key: Random key of the draws.

    Raises:
        ValueError: a latent site of the model is not in the guide, a plate is empty or lies further
            left than `max_plate_nesting`, plates of several sizes lie at dimension -1, or a site is
            enumerated inside an inner plate.
    """
    check_whole("k", k, 1)
    check_whole("max_plate_nesting", max_plate_nesting, 1)
    particle_dim = -1 - max_plate_nesting
    for_guide, for_model = jax.random.split(key)
    enumeration = _Enumeration(particle_dim - 1)

    def run(program: Program, key: Array) -> Any:
        # Outermost first: the trace must see values after the enumeration has dealt with them.
        with handlers.seed(rng_seed=key), enumeration, handlers.trace() as trace:
            if k > 1:
                with numpyro.plate("particles", k, dim=particle_dim):
                    program(*data, **kwargs)
            else:
                program(*data, **kwargs)
        return trace

    try:
        guide_trace = run(guide, for_guide)
        # The model's enumeration goes on at the dimension where the guide's stopped.
        model_trace = run(handlers.replay(model, _latents(guide_trace)), for_model)
    except AssertionError as error:
        if "size of plate should be positive" in str(error):
            raise ValueError("data should hold at least one datum, was empty") from error
        _say_which_plates_collide(error, particle_dim)
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


def _say_which_plates_collide(error: AssertionError, particle_dim: int) -> None:
    """Raises a ValueError if this is the assertion of NumPyro's plates, which has no words."""
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
    """What lies at dimension -1 is the data: a plate of another size would be added to each."""
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
    """Gives marked sites all their values, and cuts the gradient of draws that have none."""

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
            # They hold the value with its gradient, and would be used in the place of it.
            msg["intermediates"] = []


def _latents(trace: Any) -> dict[str, Any]:
    """The trace without sites that were conditioned on, which need no partner in the model."""
    return {name: site for name, site in trace.items() if not site.get("is_observed")}


def _names(trace: Any) -> dict[str, Any]:
    """The trace without distributions, whose shapes may differ by enumerated dimensions."""
    return {name: {**site, "fn": None} for name, site in trace.items()}


def sites_of(trace: Any, max_plate_nesting: int) -> dict[str, Site]:
    """The sample sites of a program that ran, by name and in its order."""
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
    """The distribution that a program named, without what plates and masks put around it."""
    mask: Mask = None
    while isinstance(fn, ExpandedDistribution | MaskedDistribution):
        if isinstance(fn, MaskedDistribution):
            mask = fn._mask if mask is None else mask & fn._mask
        fn = fn.base_dist
    return fn, mask


def _log_prob(node: Any, max_plate_nesting: int) -> Array:
    """log fn(value), masked, inner plates summed out: (..., K, N)."""
    extra = (node["intermediates"],) if node["intermediates"] else ()
    return per_datum(jnp.asarray(node["fn"].log_prob(node["value"], *extra)), max_plate_nesting)


def per_datum(value: Array, max_plate_nesting: int) -> Array:
    """`value` of a program's batch shape with its inner plates summed out: (..., K, N)."""
    missing = max_plate_nesting + 1 - value.ndim
    value = value.reshape((1,) * missing + value.shape)
    inner = tuple(range(-max_plate_nesting, -1))
    return value.sum(inner) if inner else value
