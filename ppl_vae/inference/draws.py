"""Runs of model and guide: log densities per site, for K particles and N data."""

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
    """A sample site of a program that ran.

    Attributes:
        name: The site's name.
        fn: The distribution.
        value: The value.
        log_prob: log fn(value), masked but not scaled, shape (..., K, N): dimensions further left
            enumerate discrete sites. N is 1 for a site outside the data plate.
        mask: The mask that was applied to `log_prob`, if any.
        scale: Weight of the log density (subsampling, `poutine.scale`), a number or a tensor that
            broadcasts against `log_prob`.
        observed: Whether the value was given.
        local: Whether the site is in the data plate, dimension -1.
        enum_dim: The (negative) dimension of `log_prob` that enumerates the site, if any.
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
        """Whether the site is drawn without reparametrisation."""
        drawn = not self.observed and self.enum_dim is None
        return drawn and not getattr(self.fn, "has_rsample", False)


@dataclass(frozen=True)
class Draws:
    """K draws from the guide, and the model evaluated at them.

    Attributes:
        model: The model's sites by name, in program order.
        guide: The guide's sites by name, in program order.
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
    """Run the guide, and the model on the guide's draws, once for K vectorised particles.

    Particles are a plate at dimension -1 - max_plate_nesting, so programs must accept leading
    dimensions (with k = 1 there is no such plate). Sites marked `infer={"enumerate": "parallel"}`
    take all their values, along dimensions further left.

    Args:
        model: A Pyro program p(x, z) of `data`.
        guide: A Pyro program q(z | x) of `data`.
        data: Arguments of both programs.
        k: Number of particles K.
        max_plate_nesting: Number of plate dimensions of the programs. The last, -1, is that of the
            data; the others are summed over within a datum.

    Raises:
        ValueError: A latent site of the model is not in the guide, the data are empty, a plate is
            further left than `max_plate_nesting`, plates at dimension -1 differ in size, two sites
            are enumerated along one dimension (`pyro.markov`), or one inside an inner plate.
    """
    check_whole("k", k, 1)
    check_whole("max_plate_nesting", max_plate_nesting, 1)
    if any(getattr(part, "shape", ())[:1] == (0,) for part in data):
        raise ValueError("data should hold at least one datum, was empty")
    particle_dim = -1 - max_plate_nesting
    run = model, guide
    if k > 1:
        particles = plate("particles", k, dim=particle_dim)
        run = particles(model), particles(guide)
    try:
        model_trace, guide_trace = _traces(*run, particle_dim - 1, *data, **kwargs)
    except ValueError:
        if k > 1:  # with one particle, a plate at their dimension is refused in clearer words
            draw(model, guide, *data, max_plate_nesting=max_plate_nesting, **kwargs)
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
    if is_validation_enabled():
        check_model_guide_match(model_trace, _latents(guide_trace), -particle_dim)
    return draws


def _traces(
    model: Program, guide: Program, first_available_dim: int, *data: Any, **kwargs: Any
) -> tuple[Trace, Trace]:
    guide = poutine.enum(guide, first_available_dim=first_available_dim)
    guide_trace = poutine.trace(guide).get_trace(*data, **kwargs)
    # Without `first_available_dim`, the model's enumeration continues after the guide's.
    model = poutine.enum(poutine.replay(model, trace=guide_trace))
    return poutine.trace(model).get_trace(*data, **kwargs), guide_trace


def _check_one_data_plate(*traces: Trace) -> None:
    """Check that plates at dimension -1 have one size; other sizes would be added to each datum."""
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
    """Return the trace without conditioned sites, which need not be in the model."""
    latents = trace.copy()
    for name in trace.observation_nodes:
        latents.remove_node(name)
    return latents


def sites_of(trace: Trace, max_plate_nesting: int) -> dict[str, Site]:
    """Return the sample sites of a trace by name, in program order."""
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
    """Return log fn(value), masked, with inner plates summed out: (..., K, N)."""
    log_prob = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"])
    if is_validation_enabled():
        checked: Any = {**node, "log_prob": log_prob}
        check_site_shape(checked, max_plate_nesting + 1)
    return per_datum(scale_and_mask(log_prob, mask=node["mask"]), max_plate_nesting)


def per_datum(value: Tensor, max_plate_nesting: int) -> Tensor:
    """Sum a value of a program's batch shape over the inner plates: (..., K, N)."""
    missing = max_plate_nesting + 1 - value.dim()
    value = value.reshape((1,) * missing + tuple(value.shape))
    inner = tuple(range(-max_plate_nesting, -1))
    return value.sum(inner) if inner else value
