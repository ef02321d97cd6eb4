"""See `ppl_vae.inference.objectives.semi_supervised`."""

from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array
from numpyro import handlers

from ppl_vae.numpyro.inference.draws import Draws, Program, draw
from ppl_vae.numpyro.inference.objectives.parts.base import Objective, cut
from ppl_vae.numpyro.inference.objectives.parts.elbo_terms import elbo_per_datum
from ppl_vae.numpyro.models.base import check_model
from ppl_vae.shared.checks import UNLABELLED, as_numpy, check_lengths
from ppl_vae.shared.objectives.semi_supervised import (
    check_data,
    check_settings,
    check_sites,
    prepared,
)


class SemiSupervised(Objective):
    """See `ppl_vae.inference.SemiSupervised`.

    Where `jax.jit` traces the labels, as in a jitted `SVI.update`, the first `labelled_first` data
    of a batch must be the labelled ones (all, if the batch is smaller). Elsewhere, as in `SVI.run`,
    labels are read and may be anywhere. `fit` sees to it.
    """

    def __init__(
        self,
        alpha: float = 0.1,
        *,
        k: int = 1,
        analytic_kl: bool = False,
        labelled_fraction: float | None = None,
        labelled_per_batch: int = 100,
        max_plate_nesting: int = 1,
        labelled_first: int | None = None,
    ) -> None:
        super().__init__(k, max_plate_nesting=max_plate_nesting)
        fractions = labelled_fraction, labelled_per_batch, labelled_first
        check_settings(alpha, analytic_kl, *fractions)
        self.alpha, self.analytic_kl = alpha, analytic_kl
        self.labelled_fraction, self.labelled_per_batch, self.labelled_first = fractions

    def differentiable_loss(
        self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any
    ) -> Array:
        *inputs, y = data
        n, known = check_lengths(*data), self._known(y)
        n_labelled = int(known.sum())
        fraction = n_labelled / n if self.labelled_fraction is None else self.labelled_fraction
        total = jnp.zeros(())
        for_unlabelled, for_labelled = jax.random.split(key)
        if n_labelled < n:
            unlabelled = [part[~known] for part in inputs]
            draws = self._draw(model, guide, *unlabelled, key=for_unlabelled, **kwargs)
            total = total - (1 - fraction) * self._bound(draws).mean()  # (7)
        if n_labelled > 0:
            labels = {"y": y[known]}
            labelled = [part[known] for part in inputs]
            model = handlers.condition(model, data=labels)
            guide = handlers.condition(guide, data=labels)
            draws = self._draw(model, guide, *labelled, key=for_labelled, **kwargs)
            total = total - fraction * self._bound(draws).mean()  # (6)
            site = draws.guide["y"]
            total = total - self.alpha * (site.scale * site.log_prob).mean()  # (9)
        return n * total

    def _known(self, y: Any) -> npt.NDArray[np.bool_]:
        """Return a mask of the labelled data, with values also where jit traces `y`."""
        if not isinstance(y, jax.core.Tracer):
            return np.asarray(as_numpy(y) != UNLABELLED)
        if self.labelled_first is None:
            raise ValueError(
                "labelled_first should be the number of labelled data at the head of each batch "
                "where jax.jit traces the labels, was None"
            )
        return np.arange(len(y)) < self.labelled_first

    def _draw(self, model: Program, guide: Program, *data: Any, key: Array, **kwargs: Any) -> Draws:
        nesting = self.max_plate_nesting
        draws = draw(model, guide, *data, k=self.k, max_plate_nesting=nesting, key=key, **kwargs)
        check_sites(draws)
        return draws

    def _bound(self, draws: Draws) -> Array:
        return elbo_per_datum(
            draws, analytic_kl=self.analytic_kl, max_plate_nesting=self.max_plate_nesting
        )

    def check(self, model: Any, *data: Any) -> None:
        check_model(model)
        check_data(model, *data)

    def prepare(self, model: Any, *data: Any) -> Self:
        self.check(model, *data)
        objective: Self = prepared(self, model.n_classes, data[-1])
        return objective

    def batches(
        self, batch_size: int, generator: np.random.Generator, *data: Any
    ) -> list[np.ndarray]:
        known = as_numpy(data[-1]) != UNLABELLED
        labelled, unlabelled = np.flatnonzero(known), np.flatnonzero(~known)
        if len(unlabelled) == 0:
            return super().batches(batch_size, generator, *data)
        size = min(self.labelled_per_batch, len(labelled))
        queue = labelled[:0]
        batches = []
        for batch in cut(generator.permutation(unlabelled), batch_size):
            if len(queue) < size:
                queue = np.concatenate([queue, generator.permutation(labelled)])
            batches.append(np.concatenate([queue[:size], batch]))
            queue = queue[size:]
        return batches
