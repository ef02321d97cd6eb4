"""Bidirectional Monte Carlo."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches, as_tuple
from ppl_vae.inference.compilation.capture import Compile
from ppl_vae.inference.compilation.compiled_function import resolve_compile
from ppl_vae.inference.draws import Program
from ppl_vae.inference.evaluation.ais import backwards, estimate, forwards, runs_of, step_sizes
from ppl_vae.inference.evaluation.hmc import CompiledMoves
from ppl_vae.inference.evaluation.tempered import Tempered
from ppl_vae.models.base import Model, check_model, evaluating
from ppl_vae.shared.checks import check_seed, check_whole, sample_once
from ppl_vae.shared.evaluation.annealing import Annealing
from ppl_vae.shared.evaluation.estimates import BDMC, Estimate


def bdmc(
    model: Model,
    data: Any = 100,
    *,
    chains: int = 16,
    temperatures: int = 1000,
    leapfrog_steps: int = 10,
    adaptation: int = 100,
    batch_size: int = 100,
    compile: Compile = "auto",
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> BDMC:
    """Bounds log p(x) of simulated data from both sides, in nats.

    Data are simulated with their latents, (z, x) ~ p(z, x), so that z is an exact draw from
    p(z | x). Annealed importance sampling from the prior gives an unbiased estimate of p(x), and
    its logarithm a lower bound on average. The same chains backwards, all from z, give one of
    1 / p(x), and minus its logarithm an upper bound on average. So the gap bounds the error of
    `log_likelihood(method="ais")` with these settings, on data as the model makes them; on other
    data it may be larger.

    References:
        Grosse, Ghahramani & Adams, "Sandwiching the marginal likelihood using bidirectional Monte
        Carlo", 2015, arXiv:1511.02543, section 4.
        Grosse, Ancha & Roy, "Measuring the reliability of MCMC inference with bidirectional Monte
        Carlo", NeurIPS 2016, arXiv:1606.02275.
        Wu, Burda, Salakhutdinov & Grosse, "On the quantitative analysis of decoder-based generative
        models", ICLR 2017, arXiv:1611.04273, section 3.

    Args:
        model: The model, put into evaluation mode meanwhile; its guide is not used.
        data: How many data are simulated; or the arguments of `model.model`, an array or a tuple,
            of whose observed sites no more than the shapes matter (conditions stay what they are).
        chains: Number of chains of each datum, forwards and backwards.
        temperatures, leapfrog_steps, adaptation: See `ppl_vae.inference.log_likelihood`.
        batch_size: Data that are looked at together; it bounds the memory.
        compile: Whether moves of chains are compiled, see `log_likelihood`.
        seed: Of the data and the chains; the caller's random state is left as it was.
        max_plate_nesting: Number of plate dimensions of the program.

    Raises:
        ValueError: as `log_likelihood(method="ais")`.
    """
    annealing = Annealing(chains, temperatures, leapfrog_steps, adaptation)
    check_whole("batch_size", batch_size, 1)
    check_seed(seed)
    check_model(model)
    batches = Batches(_arguments(model, data, seed), model.device, next(model.parameters()).dtype)
    runs = -(-len(batches) // batch_size) * runs_of(annealing, measured=2)
    compile = resolve_compile(compile, model, runs, chains * min(batch_size, len(batches)))
    by = CompiledMoves(model, compile=compile)
    bounds: tuple[list[Estimate], list[Estimate]] = [], []
    quiet = pyro.validation_enabled(False)
    with evaluating(model), random_state.isolated(seed, model.device), torch.no_grad(), quiet:
        for index in torch.arange(len(batches)).split(batch_size):
            batch = batches[index]
            latents, observed = _simulated(model.model, batch)
            program, given = _conditioned(model.model, list(observed)), (*observed.values(), *batch)
            nesting = max_plate_nesting
            target = Tempered(program, *given, chains=chains, max_plate_nesting=nesting)
            sizes = step_sizes(target, target.start(), annealing, by)
            ways = (forwards, target.start()), (backwards, target.start(latents))
            for found, (run, start) in zip(bounds, ways, strict=True):
                found.append(estimate(run(target, start, sizes, annealing, by)))
    return BDMC.of_inverse(*map(Estimate.join, bounds))


def _arguments(model: Model, data: Any, seed: int) -> Any:
    """The arguments of the model, of which conditions and shapes matter."""
    if isinstance(data, Integral):
        check_whole("data", data, 1)
        return model.blank(int(data))
    arrays = sample_once(as_tuple(data), seed)
    model.check(*arrays)
    return arrays


def _conditioned(model: Program, names: Sequence[str]) -> Program:
    """The model given values of these sites, which are its first arguments: no graph has them."""

    def program(*data: Tensor) -> None:
        values = dict(zip(names, data, strict=False))
        poutine.condition(poutine.uncondition(model), data=values)(*data[len(names) :])

    return program


def _simulated(
    model: Program, data: tuple[Tensor, ...]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A draw of the latent sites and of the observed ones, by name."""
    trace = poutine.trace(poutine.uncondition(model)).get_trace(*data)
    latents: dict[str, Tensor] = {}
    observed: dict[str, Tensor] = {}
    for name in trace.stochastic_nodes:
        node: Any = trace.nodes[name]
        was_observed = node["infer"].get("was_observed", False)
        (observed if was_observed else latents)[name] = node["value"]
    return latents, observed
