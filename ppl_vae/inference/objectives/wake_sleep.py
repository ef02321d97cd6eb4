"""Wake-sleep and reweighted wake-sleep."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from ppl_vae.inference.draws import Draws, Program, sites_of
from ppl_vae.inference.objectives.iwae import log_mean_exp
from ppl_vae.inference.objectives.parts.log_weights import log_guide
from ppl_vae.inference.objectives.parts.path_gradients import PathObjective, Paths
from ppl_vae.shared.objectives.wake_sleep import check_phases, in_place_of_data


class RWS(PathObjective):
    """Reweighted wake-sleep, with weights normalised for each datum; the guide has wake and sleep
    phases.

        value:          -log 1/K sum_i w_i,   w_i = p(x, z_i) / q(z_i | x),   z_i ~ q(z | x)
        model:          -sum_i v_i dlog p(x, z_i),   v_i = w_i / sum_j w_j                 (1)
        guide, wake:    -sum_i v_i dlog q(z_i | x)                                         (2)
        guide, sleep:   -dlog q(z' | x'),   (x', z') ~ p(x, z)                             (3)

    Draws are constants, so latents need not be reparametrised. (1) is the gradient of `IWAE`; (2)
    is that of KL(p(z | x) || q(z | x)) with a bias of order 1/K, as weights and values use the same
    draws; (3) is that of the same divergence for data simulated by the model, without bias. With
    both phases the guide's gradient is their mean (Pyro's `insomnia=0.5`). (3) is not part of the
    value.

    The sleep phase runs the model without observations; its draw at an observed site replaces the
    argument that was observed there: one x' for each datum of the batch, with its scale. Arguments
    that no site observes, such as conditions, are unchanged. The sleep phase does not change the
    buffers (running statistics) of modules whose methods are the programs.

    References:
        Bornschein & Bengio, "Reweighted wake-sleep", ICLR 2015, arXiv:1406.2751 ((1) to (3)).
        Le, Kosiorek, Siddharth, Teh & Wood, "Revisiting reweighted wake-sleep for models with
        stochastic control flow", UAI 2019, arXiv:1805.10469 (bias).

    Differs from the paper:
        Gradients are separated by density and not by a list of parameters: a network shared by
        model and guide gets both. All phases are one step.

    Args:
        k: Number of particles K; at least 2 for the wake phase of the guide, as with one v is 1
            and the expectation of (2) is 0.
        wake_phi: Whether the guide has a wake phase.
        sleep_phi: Whether the guide has a sleep phase.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: An argument is invalid, or the guide has no phase; (when used) as for `IWAE`; in
            the sleep phase, a site does not observe one of the arguments, or the guide draws a site
            that the model does not.
    """

    def __init__(
        self,
        k: int,
        wake_phi: bool = True,
        sleep_phi: bool = False,
        *,
        max_plate_nesting: int = 1,
    ) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        check_phases(k, wake_phi, sleep_phi)
        self.wake_phi, self.sleep_phi = wake_phi, sleep_phi

    def value(self, log_w: Tensor) -> Tensor:
        return -log_mean_exp(log_w)

    def surrogate(self, draws: Draws, log_w: Tensor, scale: Tensor, paths: Paths) -> Tensor:
        share, log_q = log_w.detach().softmax(0), log_guide(draws)
        awake = self.wake_phi / (self.wake_phi + self.sleep_phi)
        return -(scale * share * (log_w + log_q + awake * log_q)).sum()  # (1), (2)

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> Tensor:
        loss = super().differentiable_loss(model, guide, *data, **kwargs)
        if not (self.sleep_phi and torch.is_grad_enabled()):
            return loss
        settings = {"max_plate_nesting": self.max_plate_nesting, **kwargs}
        asleep = _sleep(model, guide, *data, **settings) / (self.wake_phi + self.sleep_phi)
        return loss + (asleep - asleep.detach())


class WakeSleep(RWS):
    """Wake-sleep: `RWS` with one particle and only the sleep phase for the guide.

        value:  -log w = -(log p(x, z) - log q(z | x)),   z ~ q(z | x): on average minus the ELBO
        model:  -dlog p(x, z)
        guide:  -dlog q(z' | x'),   (x', z') ~ p(x, z)

    References:
        Hinton, Dayan, Frey & Neal, "The wake-sleep algorithm for unsupervised neural networks",
        Science 268, 1995.

    Differs from the paper:
        As for `RWS`.

    Args:
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: (when used) As for `RWS`.
    """

    def __init__(self, *, max_plate_nesting: int = 1) -> None:
        super().__init__(1, wake_phi=False, sleep_phi=True, max_plate_nesting=max_plate_nesting)


def _sleep(
    model: Program, guide: Program, *data: Any, max_plate_nesting: int, **kwargs: Any
) -> Tensor:
    """Compute -log q(z' | x') for one simulated datum per datum, scaled and summed: (3)."""
    with ExitStack() as stack:
        owners = [getattr(program, "__self__", None) for program in (model, guide)]
        for module in {owner for owner in owners if isinstance(owner, nn.Module)}:
            stack.enter_context(_copies_of_buffers(module))
        with torch.no_grad():
            dream = poutine.trace(poutine.uncondition(model)).get_trace(*data, **kwargs)
        data, kwargs = in_place_of_data(_simulated(dream), data, kwargs)
        trace = poutine.trace(poutine.replay(guide, trace=dream)).get_trace(*data, **kwargs)
    total = torch.zeros(())
    for site in sites_of(trace, max_plate_nesting).values():
        if site.observed:
            continue
        if site.name not in dream.nodes:
            raise ValueError(
                f"site {site.name!r} should be drawn by the model, which simulates it in the sleep "
                "phase, was drawn by the guide alone: use RWS with sleep_phi=False"
            )
        total = total - (site.scale * site.log_prob).sum()
    return total


def _simulated(dream: Trace) -> dict[str, tuple[Any, Any]]:
    """Return the observed and the simulated value of each observed site."""
    found = {}
    nodes: Mapping[str, Any] = dream.nodes
    for name, node in nodes.items():
        if node["type"] == "sample" and "was_observed" in node["infer"]:
            observed = node["infer"]["obs"]
            found[name] = observed, node["value"].to(observed.dtype)
    return found


@contextmanager
def _copies_of_buffers(module: nn.Module) -> Iterator[None]:
    """Replace buffers by copies; the wake phase's gradient needs the originals unchanged."""
    kept = [
        (part, name, value)
        for part in module.modules()
        for name, value in part.named_buffers(recurse=False)
    ]
    for part, name, value in kept:
        setattr(part, name, value.clone())
    try:
        yield
    finally:
        for part, name, value in kept:
            setattr(part, name, value)
