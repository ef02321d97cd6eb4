"""The one place that runs model and guide: log densities per site, for K particles and N data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from pyro.primitives import plate
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor
from torch.distributions import Distribution

from ppl_vae.shared.checks import check_whole

Program: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Site:
    """What one sample site of a program did.

    Attributes:
        name: The site's name.
        fn: Its distribution.
        value: Its value.
        log_prob: log fn(value) with masks applied and scales not, shape (..., K, N): dimensions
            further left enumerate discrete sites. N is 1 for a site outside the data plate.
        mask: The mask that was applied to `log_prob`, if any.
        scale: What the log density counts for (subsampling, `poutine.scale`), a number or a tensor
            that broadcasts against `log_prob`.
        observed: Whether the value was given.
        local: Whether the site lies in the data plate, dimension -1.
        enum_dim: The (negative) dimension of `log_prob` along which it is enumerated, if it is.
    """

    name: str
    fn: Distribution
    value: Tensor
    log_prob: Tensor
    mask: bool | Tensor | None
    scale: float | Tensor
    observed: bool
    local: bool
    enum_dim: int | None

    @property
    def needs_score_function(self) -> bool:
        """Whether its gradient needs the score function: drawn, but not by reparametrisation."""
        drawn = not self.observed and self.enum_dim is None
        return drawn and not getattr(self.fn, "has_rsample", False)


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
    **kwargs: Any,
) -> Draws:
    """Runs the guide and then the model against it, once, for K particles side by side.

    Particles are a plate at dimension -1 - max_plate_nesting, so programs must accept leading
    dimensions (with k = 1 there is no such plate). Sites marked `infer={"enumerate": "parallel"}`
    take all their values, along dimensions further left.

    Args:
        model: A Pyro program p(x, z) of `data`.
        guide: A Pyro program q(z | x) of `data`.
        data: Arguments of both programs.
        k: Number of particles K.
        max_plate_nesting: Number of plate dimensions of the programs; the last, -1, is that of the
            data, and others are summed over within a datum.

    Raises:
        ValueError: a latent site of the model is not in the guide, a plate is empty or lies further
            left than `max_plate_nesting`, plates of several sizes lie at dimension -1, two sites
            are enumerated along one dimension (`pyro.markov`), or one inside an inner plate.
    """
    check_whole("k", k, 1)
    check_whole("max_plate_nesting", max_plate_nesting, 1)
    particle_dim = -1 - max_plate_nesting
    if k > 1:
        particles = plate("particles", k, dim=particle_dim)
        model, guide = particles(model), particles(guide)
    guide = poutine.enum(guide, first_available_dim=particle_dim - 1)
    try:
        guide_trace = poutine.trace(guide).get_trace(*data, **kwargs)
        # Without a dimension of its own the model's enumeration goes on where the guide's stopped.
        model = poutine.enum(poutine.replay(model, trace=guide_trace))
        model_trace = poutine.trace(model).get_trace(*data, **kwargs)
    except ZeroDivisionError as error:
        if "size cannot be zero" not in str(error):
            raise
        raise ValueError("data should hold at least one datum, was empty") from error
    except ValueError as error:
        if "collide" not in str(error) or '"particles"' not in str(error):
            raise
        raise ValueError(
            f"max_plate_nesting should be at least {-particle_dim} for a plate at dim "
            f"{particle_dim}, was {max_plate_nesting}"
        ) from error
    _check_one_data_plate(guide_trace, model_trace)
    draws = Draws(
        sites_of(model_trace, max_plate_nesting), sites_of(guide_trace, max_plate_nesting)
    )
    for site in draws.model.values():
        if not (site.observed or site.enum_dim is not None or site.name in draws.guide):
            raise ValueError(
                f"site {site.name!r} should be given as data or drawn by the guide, was neither"
            )
    if is_validation_enabled():
        check_model_guide_match(model_trace, _latents(guide_trace), -particle_dim)
    return draws


def _check_one_data_plate(*traces: Trace) -> None:
    """What lies at dimension -1 is the data: a plate of another size would be added to each."""
    sizes: dict[str, int] = {}
    for trace in traces:
        for node in trace.nodes.values():
            for frame in node.get("cond_indep_stack", ()):
                if frame.dim == -1:
                    sizes[frame.name] = frame.size
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"plates at dim -1 should have one size, that of the data, had {sizes}: use another dim"
        )


def _latents(trace: Trace) -> Trace:
    """The trace without sites that were conditioned on, which need no partner in the model."""
    latents = trace.copy()
    for name in trace.observation_nodes:
        latents.remove_node(name)
    return latents


def sites_of(trace: Trace, max_plate_nesting: int) -> dict[str, Site]:
    """The sample sites of a program that ran, by name and in its order."""
    nodes = prune_subsample_sites(trace).nodes
    sites = [_site(node, max_plate_nesting) for node in nodes.values() if node["type"] == "sample"]
    taken = [site.enum_dim for site in sites if site.enum_dim is not None]
    if len(taken) != len(set(taken)):
        raise ValueError(
            "enumerated sites should have a dimension each, but pyro.markov shares them: "
            "use pyro.infer.TraceEnum_ELBO"
        )
    return {site.name: site for site in sites}


def _site(node: Any, max_plate_nesting: int) -> Site:
    frames = [frame for frame in node["cond_indep_stack"] if frame.vectorized]
    inner = [f for f in frames if f.name != "particles" and f.dim is not None and f.dim < -1]
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
        mask=node["mask"],
        scale=node["scale"],
        observed=node["is_observed"],
        local=any(frame.dim == -1 for frame in frames),
        enum_dim=None if enum_dim is None else enum_dim + max_plate_nesting - 1,
    )


def _log_prob(node: Any, max_plate_nesting: int) -> Tensor:
    """log fn(value), masked, inner plates summed out: (..., K, N)."""
    log_prob = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"])
    if is_validation_enabled():
        checked: Any = {**node, "log_prob": log_prob}
        check_site_shape(checked, max_plate_nesting + 1)
    return per_datum(scale_and_mask(log_prob, mask=node["mask"]), max_plate_nesting)


def per_datum(value: Tensor, max_plate_nesting: int) -> Tensor:
    """`value` of a program's batch shape with its inner plates summed out: (..., K, N)."""
    missing = max_plate_nesting + 1 - value.dim()
    value = value.reshape((1,) * missing + tuple(value.shape))
    inner = tuple(range(-max_plate_nesting, -1))
    return value.sum(inner) if inner else value
