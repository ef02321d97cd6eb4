"""Imputation of missing entries by a trained pair."""

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.inference import random_state
from ppl_vae.models.base import Model, check_model, evaluating
from ppl_vae.shared.checks import as_numpy, check_mask, check_seed, check_whole


def impute(model: Model, x: Any, observed: Any, *, steps: int = 100, seed: int = 0) -> Tensor:
    """Draw the missing entries of x by a Markov chain, shape (n, x_dim).

        z ~ q(z | x),    x_missing ~ p(x_missing | z),    x_observed fixed        (1)

    repeatedly. If q(z | x) is the posterior this is Gibbs sampling, and the chain converges to
    p(x_missing | x_observed); otherwise its error is that of q.

    References:
        Rezende, Mohamed & Wierstra, "Stochastic Backpropagation and Approximate Inference in Deep
        Generative Models", ICML 2014, arXiv:1401.4082 (missing data imputation).

    Args:
        model: The model/guide pair, with the single argument `x`. Temporarily switched to
            evaluation mode.
        x: Data, shape (n, x_dim). The chain starts at its values of the missing entries, so a
            result of `impute` continues its chain.
        observed: Whether each entry is known, boolean, of the same shape.
        steps: Number of rounds of (1).
        seed: Random seed for the draws. The global RNG state is restored afterwards.

    Raises:
        ValueError: an argument is invalid.
    """
    check_whole("steps", steps, 1)
    check_seed(seed)
    check_model(model)
    model.check(x)
    check_mask("observed", observed, x.shape[1])
    if len(observed) != len(x):
        raise ValueError(f"observed should have {len(x)} rows, those of x, had {len(observed)}")
    (known,) = model.as_tensors(x)
    mask = torch.as_tensor(as_numpy(observed), device=model.device)
    now = known
    with evaluating(model), random_state.isolated(seed, model.device), torch.no_grad():
        for _ in range(steps):
            guide = poutine.trace(model.guide).get_trace(now)
            program = poutine.replay(poutine.uncondition(model.model), trace=guide)
            nodes: Any = poutine.trace(program).get_trace(now).nodes
            now = torch.where(mask, known, nodes["x"]["value"])
    return now
