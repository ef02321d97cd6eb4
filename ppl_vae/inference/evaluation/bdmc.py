"""Bidirectional Monte Carlo."""

from collections.abc import Sequence
from typing import Any

from pyro import poutine
from torch import Tensor

from ppl_vae.inference.compilation.capture import Compile
from ppl_vae.inference.compilation.compiled_function import resolve_compile
from ppl_vae.inference.draws import Program
from ppl_vae.inference.evaluation.ais import backwards, estimate, forwards, runs_of, step_sizes
from ppl_vae.inference.evaluation.hmc import CompiledMoves
from ppl_vae.inference.evaluation.tempered import Tempered
from ppl_vae.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.models.base import Model, check_model
from ppl_vae.shared.evaluation.annealing import Annealing
from ppl_vae.shared.evaluation.estimates import BDMC, Estimate
from ppl_vae.shared.evaluation.pair import blank_or_given


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
    """Bound log p(x) of simulated data from both sides, in nats.

    Data are simulated with their latents, (z, x) ~ p(z, x), so that z is an exact draw from
    p(z | x). Annealed importance sampling from the prior gives an unbiased estimate of p(x), and
    its logarithm a lower bound on average. The same chains in reverse, all starting at z, estimate
    1 / p(x), and minus the logarithm is an upper bound on average. So the gap bounds the error of
    `log_likelihood(method="ais")` with these settings on simulated data; on other data it may be
    larger.

    References:
        Grosse, Ghahramani & Adams, "Sandwiching the marginal likelihood using bidirectional Monte
        Carlo", 2015, arXiv:1511.02543, section 4.
        Grosse, Ancha & Roy, "Measuring the reliability of MCMC inference with bidirectional Monte
        Carlo", NeurIPS 2016, arXiv:1606.02275.
        Wu, Burda, Salakhutdinov & Grosse, "On the quantitative analysis of decoder-based generative
        models", ICLR 2017, arXiv:1611.04273, section 3.

    Args:
        model: The model/guide pair, whose guide is not used. Temporarily switched to evaluation
            mode.
        data: Number of data to simulate; or the arguments of `model.model`, an array or a tuple,
            which give the conditions and the shapes of observed sites.
        chains: Number of chains of each datum, in each direction.
        temperatures, leapfrog_steps, adaptation: See `log_likelihood`.
        batch_size: Batch size; limits peak memory.
        compile: Whether to compile the moves of the chains, see `log_likelihood`.
        seed: Random seed for the data and the chains. The global RNG state is restored afterwards.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: as `log_likelihood(method="ais")`.
    """
    annealing = Annealing(chains, temperatures, leapfrog_steps, adaptation)
    check_model(model)
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    pair = TrainedPair(model, blank_or_given(model, data), **settings)
    runs = len(pair.rows()) * runs_of(annealing, measured=2)
    compile = resolve_compile(compile, model, runs, chains * pair.batch_size)
    move = CompiledMoves(model, compile=compile)
    bounds: tuple[list[Estimate], list[Estimate]] = [], []
    with pair.evaluating():
        for batch in pair.batches():
            latents, observed = _simulate(model.model, batch)
            program, given = _conditioned(model.model, list(observed)), (*observed.values(), *batch)
            target = Tempered(program, *given, chains=chains, max_plate_nesting=pair.nesting)
            sizes = step_sizes(target, target.start(), annealing, move)
            ways = (forwards, target.start()), (backwards, target.start(latents))
            for estimates, (run, start) in zip(bounds, ways, strict=True):
                estimates.append(estimate(run(target, start, sizes, annealing, move)))
    return BDMC.of_inverse(*map(Estimate.join, bounds))


def _conditioned(model: Program, names: Sequence[str]) -> Program:
    """Return the model given the values of these sites as its first arguments.

    They are arguments because a compiled graph would fix other tensors.
    """

    def program(*data: Tensor) -> None:
        values = dict(zip(names, data, strict=False))
        poutine.condition(poutine.uncondition(model), data=values)(*data[len(names) :])

    return program


def _simulate(
    model: Program, data: tuple[Tensor, ...]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a draw of the latent sites and of the observed sites, by name."""
    trace = poutine.trace(poutine.uncondition(model)).get_trace(*data)
    latents: dict[str, Tensor] = {}
    observed: dict[str, Tensor] = {}
    for name in trace.stochastic_nodes:
        node: Any = trace.nodes[name]
        was_observed = node["infer"].get("was_observed", False)
        (observed if was_observed else latents)[name] = node["value"]
    return latents, observed
