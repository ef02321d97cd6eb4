"""The log-likelihood of a trained model, by importance sampling."""

from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae.inference import random_state
from ppl_vae.inference.batches import Batches, as_tuple
from ppl_vae.inference.compilation.capture import Compile
from ppl_vae.inference.compilation.compiled_function import CompiledFunction, resolve_compile
from ppl_vae.inference.draws import draw
from ppl_vae.inference.evaluation import ais
from ppl_vae.inference.evaluation.hmc import CompiledMoves
from ppl_vae.inference.evaluation.tempered import Tempered
from ppl_vae.inference.objectives.parts.log_weights import log_weights
from ppl_vae.models.base import Model, check_model, evaluating
from ppl_vae.shared.checks import check_whole, sample_once
from ppl_vae.shared.evaluation.annealing import Annealing
from ppl_vae.shared.evaluation.estimates import Estimate
from ppl_vae.shared.evaluation.likelihood import Method, Weighing, effort_of


def log_likelihood(
    model: Model,
    data: Any,
    k: int | None = None,
    *,
    method: Method = "iw",
    batch_size: int = 100,
    particles: int | None = None,
    chains: int | None = None,
    temperatures: int | None = None,
    leapfrog_steps: int | None = None,
    adaptation: int | None = None,
    compile: Compile = "auto",
    seed: int = 0,
    max_plate_nesting: int = 1,
) -> Estimate:
    """Estimates log p(x) of each datum, in nats; on average below log p(x).

    By importance sampling, method "iw", with the guide as proposal:

        log 1/k sum_i w_i,    w_i = p(x, z_i) / q(z_i | x),    z_i ~ q(z | x)             (1)

    It comes nearer with k. Sites that model or guide enumerate are summed over exactly. With a pair
    whose guide is its prior (`cvae.gsnn()`) this is the simple Monte Carlo estimate.

    By annealed importance sampling, method "ais": chains from the prior by Hamiltonian moves along

        f_t(z) = p(z) p(x | z)^beta_t,    0 = beta_0 < ... < beta_T = 1                   (2)

    each with a weight w_i, E[w_i] = p(x), in (1). The guide is not used, so this tells what a bad
    guide hides; it comes nearer with T. Latents may be several sites, with constraints
    (`biject_to`), and discrete where the model enumerates them. The beta_t are sigmoidal. Step
    sizes are found for each datum by a run before, with chains of its own, so E[w_i] = p(x) holds.

    Both give w_i without scales: a datum counts for one, and observations that are masked for
    nothing. Errors are those of log 1/k sum_i w_i by the delta method; they say little if few
    weights dominate.

    References:
        Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", ICLR 2016,
        arXiv:1509.00519, equation 8 (1).
        Neal, "Annealed importance sampling", Statistics and Computing, 2001,
        arXiv:physics/9803008.
        Wu, Burda, Salakhutdinov & Grosse, "On the quantitative analysis of decoder-based generative
        models", ICLR 2017, arXiv:1611.04273, section 3 (2).

    Differs from the paper:
        Of Wu et al.: step sizes are adapted in a run before, and not along the measured chains; to
        an acceptance of 80% (65% there), and with a jitter, because chains in the tails get stuck
        otherwise; the leapfrog begins with half a step of the position (`hmc.move`).

    Args:
        model: The pair, put into evaluation mode meanwhile.
        data: The argument of `model.model`, or a tuple of its arguments; of data that are drawn
            anew (`ppl_vae.data.Dynamic`, `NormalFeatures`) one draw is taken.
        k: Of "iw": number of draws for each datum, by default 5000.
        method: "iw" or "ais".
        batch_size: Data, and
        particles: of "iw", draws for each of them (50), that are looked at together; they bound
            the memory.
        chains: Of "ais", as all that follows: number of chains for each datum (16).
        temperatures: Number of temperatures T (1000).
        leapfrog_steps: Steps of a move (10); there is one move at each temperature.
        adaptation: Number of temperatures of the run that finds the step sizes (100).
        compile: Whether to compile the draws and their weights, or the moves of the chains (see
            `CompiledFunction`), which takes some seconds: True, False, or "auto", which compiles
            where it is possible and the amount of work justifies it (see `resolve_compile`). A
            smaller last batch is compiled separately.
        seed: Of the draws and the pixels; the caller's random state is left as it was.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the data are not the model's, an argument is not such or is one of the other
            method, or a latent variable lies outside the data plate;
            of "ais", a latent variable is discrete and not enumerated, or masked, or there is none;
            with `compile=True`, what prevents compiling.
    """
    effort = effort_of(
        method,
        k=k,
        particles=particles,
        chains=chains,
        temperatures=temperatures,
        leapfrog_steps=leapfrog_steps,
        adaptation=adaptation,
    )
    check_whole("batch_size", batch_size, 1)
    check_model(model)
    arrays = sample_once(as_tuple(data), seed)
    model.check(*arrays)
    batches = Batches(arrays, model.device, next(model.parameters()).dtype)
    number = -(-len(batches) // batch_size)
    if isinstance(effort, Weighing):
        runs, rows = -(-effort.k // effort.particles), min(effort.k, effort.particles)
    else:
        runs, rows = ais.runs_of(effort), effort.chains
    rows *= min(batch_size, len(batches))
    compile = resolve_compile(compile, model, number * runs, rows)
    weigh = _weighing(model, max_plate_nesting, compile)
    by = CompiledMoves(model, compile=compile)
    parts = []
    quiet = pyro.validation_enabled(False)
    with evaluating(model), random_state.isolated(seed, model.device), torch.no_grad(), quiet:
        for index in torch.arange(len(batches)).split(batch_size):
            batch = batches[index]
            if isinstance(effort, Weighing):
                parts.append(_weighted(weigh, batch, effort, model.device))
            else:
                parts.append(_annealed(model, batch, effort, max_plate_nesting, by))
    return Estimate.join(parts)


def _weighing(model: Model, nesting: int, compile: Compile) -> CompiledFunction:
    """log sum_i w_i and log sum_i w_i^2 of some draws for each datum of a batch, (N,)."""

    def sums(size: int, *batch: Tensor) -> tuple[Tensor, Tensor]:
        draws = draw(model.model, model.guide, *batch, k=size, max_plate_nesting=nesting)
        log_w = log_weights(draws).double()
        return log_w.logsumexp(0), (2 * log_w).logsumexp(0)

    return CompiledFunction(sums, [model], compile=compile)


def _weighted(
    weigh: CompiledFunction, batch: Any, effort: Weighing, device: torch.device
) -> Estimate:
    """Of a batch by some draws at a time, of which only the sums are kept."""
    k, particles = effort.k, effort.particles
    log_sum = log_sum_of_squares = torch.full((), -torch.inf, dtype=torch.double, device=device)
    for start in range(0, k, particles):
        one, two = weigh(min(particles, k - start), *batch)
        log_sum = torch.logaddexp(log_sum, one)
        log_sum_of_squares = torch.logaddexp(log_sum_of_squares, two)
    return Estimate.of_weights((log_sum, log_sum_of_squares), k)


def _annealed(
    model: Model, batch: Any, annealing: Annealing, nesting: int, by: ais.Move
) -> Estimate:
    """Of a batch by chains from the prior, all side by side."""
    chains = annealing.chains
    settings: dict[str, Any] = {"max_plate_nesting": nesting, "otherwise": "use method='iw'"}
    target = Tempered(model.model, *batch, chains=chains, **settings)
    sizes = ais.step_sizes(target, target.start(), annealing, by)
    return ais.estimate(ais.forwards(target, target.start(), sizes, annealing, by))
