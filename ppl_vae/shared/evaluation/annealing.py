"""Settings of annealed importance sampling."""

from dataclasses import dataclass

import numpy as np

from ppl_vae.shared.checks import check_whole

SHARPNESS = 4.0
"""Slope of the sigmoid that sets the temperatures (Wu et al. 2017)."""
ACCEPTANCE = 0.8
"""Target acceptance rate of the step size adaptation.

Wu et al. (2017) use 0.65, the best rate for many dimensions and chains in equilibrium (Neal 2011).
With it single chains get stuck in tails, where the step size is too large, and the weights spread
more: with 200 temperatures, standard deviations of log w are 0.5 with 0.8 and 3 with 0.65 for a
linear Gaussian model of two latent numbers, and 0.22 and 0.49 for a VAE of 20 (digits)."""
RATE = 0.5
"""log step size += RATE (acceptance - ACCEPTANCE), after each move."""
FIRST_STEP_SIZE = 0.5
JITTER = 0.9
"""Each move multiplies the step size by a random number in [1 - JITTER, 1 + JITTER]."""


@dataclass(frozen=True)
class Annealing:
    """The effort of annealed importance sampling.

    Args:
        chains: Number of chains for each datum.
        temperatures: Number T of temperatures 0 < beta_1 < ... < beta_T = 1.
        leapfrog_steps: Leapfrog steps of a Hamiltonian move; there is one move per temperature.
        adaptation: Number of temperatures of the run that adapts the step sizes.
    """

    chains: int = 16
    temperatures: int = 1000
    leapfrog_steps: int = 10
    adaptation: int = 100

    def __post_init__(self) -> None:
        for name, least in (("chains", 1), ("temperatures", 1), ("leapfrog_steps", 1)):
            check_whole(name, getattr(self, name), least)
        check_whole("adaptation", self.adaptation, 2)

    def betas(self) -> np.ndarray:
        """Return the inverse temperatures 0 = beta_0 < ... < beta_T = 1, shape (T + 1,)."""
        return sigmoidal(self.temperatures)

    def adaptation_betas(self) -> np.ndarray:
        """Return the inverse temperatures of the run that adapts the step sizes."""
        return sigmoidal(self.adaptation)

    def interpolation(self) -> np.ndarray:
        """Return the matrix from log step sizes of the adaptation run to those of the T - 1 moves.

        Shape (T - 1, adaptation - 1): linear in the index t / T of the temperature.
        """
        moves, known = (
            np.arange(1, number) / number for number in (self.temperatures, self.adaptation)
        )
        return np.stack([np.interp(moves, known, row) for row in np.eye(len(known))], axis=1)


def sigmoidal(temperatures: int) -> np.ndarray:
    """Return beta_t = (s(4 (2t/T - 1)) - s(-4)) / (s(4) - s(-4)), t = 0, ..., T, with sigmoid s."""
    t = np.arange(temperatures + 1) / temperatures
    s = 1 / (1 + np.exp(-SHARPNESS * (2 * t - 1)))
    return np.asarray((s - s[0]) / (s[-1] - s[0]))
