"""Log-likelihood of a trained pair by importance sampling."""

from typing import Any

import torch
from torch import Tensor

from ppl_vae.inference.compilation.capture import Compile
from ppl_vae.inference.compilation.compiled_function import CompiledFunction, resolve_compile
from ppl_vae.inference.evaluation import ais
from ppl_vae.inference.evaluation.hmc import CompiledMoves
from ppl_vae.inference.evaluation.tempered import Tempered
from ppl_vae.inference.evaluation.trained_pair import TrainedPair
from ppl_vae.inference.objectives.parts.log_weights import log_weights
from ppl_vae.models.base import Model
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
    """Estimate log p(x) of each datum, in nats; on average below log p(x).

    Importance sampling, method "iw", with the guide as the proposal:

        log 1/k sum_i w_i,    w_i = p(x, z_i) / q(z_i | x),    z_i ~ q(z | x)             (1)

    It approaches log p(x) with increasing k. Sites that model or guide enumerate are summed out
    exactly. For a pair whose guide is its prior (`cvae.gsnn()`) this is simple Monte Carlo.

    Annealed importance sampling, method "ais": chains of Hamiltonian moves from the prior along

        f_t(z) = p(z) p(x | z)^beta_t,    0 = beta_0 < ... < beta_T = 1                   (2)

    each with a weight w_i, E[w_i] = p(x), in (1). It does not use the guide, so it is not affected
    by a poor guide; it approaches log p(x) with increasing T. Latents may be several sites,
    constrained (`biject_to`), and discrete where the model enumerates them. The beta_t are
    sigmoidal. Step sizes are adapted for each datum by separate chains, so that E[w_i] = p(x).

    Both methods ignore scales of the log densities: each datum counts once, and masked observations
    do not count. Errors are those of log 1/k sum_i w_i by the delta method; they are unreliable if
    a few weights dominate.

    References:
        Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", ICLR 2016,
        arXiv:1509.00519, equation 8 (1).
        Neal, "Annealed importance sampling", Statistics and Computing, 2001,
        arXiv:physics/9803008.
        Wu, Burda, Salakhutdinov & Grosse, "On the quantitative analysis of decoder-based generative
        models", ICLR 2017, arXiv:1611.04273, section 3 (2).

    Differs from the paper:
        Wu et al. adapt step sizes along the measured chains to an acceptance of 65%; here they are
        adapted in a separate run to 80%, and jittered, because chains get stuck in the tails
        otherwise. The leapfrog starts with half a step of the position (`hmc.move`).

    Args:
        model: The model/guide pair. Temporarily switched to evaluation mode.
        data: The argument of `model.model`, or a tuple of its arguments. Resampled data
            (`ppl_vae.data.Dynamic`, `NormalFeatures`) are sampled once.
        k: Number of draws for each datum of "iw", by default 5000.
        method: "iw" or "ais".
        batch_size: Batch size; limits peak memory.
        particles: Number of draws per datum of "iw" that are evaluated at once (50); limits peak
            memory.
        chains: Number of chains for each datum of "ais" (16), which also uses the next three.
        temperatures: Number of temperatures T (1000).
        leapfrog_steps: Leapfrog steps of a move (10); there is one move per temperature.
        adaptation: Number of temperatures of the run that adapts the step sizes (100).
        compile: Whether to compile the draws and their weights, or the moves of the chains (see
            `CompiledFunction`), which takes some seconds: True, False, or "auto", which compiles
            where it is possible and the amount of work justifies it (see `resolve_compile`). A
            smaller last batch is compiled separately.
        seed: Random seed for latent draws and dynamic binarisation. The global RNG state is
            restored afterwards.
        max_plate_nesting: Number of plate dimensions of the programs.

    Raises:
        ValueError: the data are not the model's, a latent variable lies outside the data plate, or
            an argument is invalid or belongs to the other method; for "ais", a latent variable is
            discrete and not enumerated, or masked, or there is none; with `compile=True`, what
            prevents compiling.
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
    settings = {"batch_size": batch_size, "seed": seed, "max_plate_nesting": max_plate_nesting}
    pair = TrainedPair(model, data, **settings)
    if isinstance(effort, Weighing):
        runs, rows = -(-effort.k // effort.particles), min(effort.k, effort.particles)
    else:
        runs, rows = ais.runs_of(effort), effort.chains
    compile = resolve_compile(compile, model, len(pair.rows()) * runs, rows * pair.batch_size)
    weigh = _compiled_sums(pair, compile)
    move = CompiledMoves(model, compile=compile)
    parts = []
    with pair.evaluating():
        for batch in pair.batches():
            if isinstance(effort, Weighing):
                parts.append(_weighted(weigh, batch, effort, model.device))
            else:
                parts.append(_annealed(pair, batch, effort, move))
    return Estimate.join(parts)


def _compiled_sums(pair: TrainedPair, compile: Compile) -> CompiledFunction:
    """Return a function for log sum_i w_i and log sum_i w_i^2 of some draws, (N,) each."""

    def sums(size: int, *batch: Tensor) -> tuple[Tensor, Tensor]:
        log_w = log_weights(pair.draws_of(batch, size)).double()
        return log_w.logsumexp(0), (2 * log_w).logsumexp(0)

    return CompiledFunction(sums, [pair.model], compile=compile)


def _weighted(
    weigh: CompiledFunction, batch: Any, effort: Weighing, device: torch.device
) -> Estimate:
    """Estimate log p(x) of a batch by importance sampling, `particles` draws at a time."""
    k, particles = effort.k, effort.particles
    log_sum = log_sum_of_squares = torch.full((), -torch.inf, dtype=torch.double, device=device)
    for start in range(0, k, particles):
        one, two = weigh(min(particles, k - start), *batch)
        log_sum = torch.logaddexp(log_sum, one)
        log_sum_of_squares = torch.logaddexp(log_sum_of_squares, two)
    return Estimate.of_weights((log_sum, log_sum_of_squares), k)


def _annealed(pair: TrainedPair, batch: Any, annealing: Annealing, move: ais.Move) -> Estimate:
    """Estimate log p(x) of a batch by annealed importance sampling, all chains side by side."""
    settings: dict[str, Any] = {
        "chains": annealing.chains,
        "max_plate_nesting": pair.nesting,
        "alternative": "use method='iw'",
    }
    target = Tempered(pair.model.model, *batch, **settings)
    sizes = ais.step_sizes(target, target.start(), annealing, move)
    return ais.estimate(ais.forwards(target, target.start(), sizes, annealing, move))
