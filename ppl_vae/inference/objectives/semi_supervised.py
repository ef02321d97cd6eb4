"""Semi-supervised learning from labelled and unlabelled data."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.inference.compilation.private_torch import FakeTensor
from ppl_vae.inference.draws import Draws, Program, draw
from ppl_vae.inference.objectives.parts.base import Objective
from ppl_vae.inference.objectives.parts.elbo_terms import elbo_per_datum
from ppl_vae.models.base import check_model
from ppl_vae.shared.checks import UNLABELLED, as_numpy, check_lengths
from ppl_vae.shared.objectives.semi_supervised import (
    check_data,
    check_settings,
    check_sites,
    prepared,
)


class SemiSupervised(Objective):
    """Semi-supervised objective J^alpha for labelled and unlabelled data (label -1), for any pair
    with a label site `y`.

        log p(x, y) >= -L(x, y),  E_{q(z | x, y)}                                          (6)
        log p(x)    >= -U(x) = sum_y q(y | x) (-L(x, y)) + H(q(y | x))                     (7)
        J           = sum_labelled L(x, y) + sum_unlabelled U(x)                           (8)
        J^alpha     = J + alpha N mean_labelled(-log q(y | x))                             (9)

    The data are those of the pair followed by the labels y, shape (n,), with -1 for an unlabelled
    datum. Programs are run without y, and the site is conditioned on the labels. The sum in (7) is
    exact if the pair marks `y` with `infer={"enumerate": "parallel"}`, and otherwise estimated with
    the score function.

    The loss of a batch estimates that of the data set:
    B (f mean_labelled L + (1 - f) mean_unlabelled U + alpha mean_labelled(-log q(y | x))), where B
    is the batch size and f the labelled fraction of the data set, so a batch may be enriched with
    labelled data.

    References:
        Kingma, Mohamed, Rezende & Welling, "Semi-supervised learning with deep generative models",
        NeurIPS 2014, arXiv:1406.5298, equations 6-9 (the paper sets alpha = 0.1: "alpha = 0.1 N").

    Args:
        alpha: Weight of the classification loss in (9).
        k: Number of particles.
        analytic_kl: Whether KL terms are in closed form, see `ELBO`.
        labelled_fraction: The fraction f; by default that of the data given to `fit`, and elsewhere
            that of the batch.
        labelled_per_batch: Number of labelled data in each batch of `fit`, in addition to
            `batch_size` unlabelled ones (fewer if there are fewer).
        max_plate_nesting: Number of plate dimensions of the programs.
        labelled_first: For compiled steps, in which labels have no values: the number of labelled
            data at the head of each batch (all, if the batch is smaller). `fit` sets it and orders
            its batches accordingly.
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
        self, model: Program, guide: Program, *data: Any, **kwargs: Any
    ) -> Tensor:
        *inputs, y = data
        n = check_lengths(*data)
        known, unknown, n_labelled = self._split(y)
        fraction = n_labelled / n if self.labelled_fraction is None else self.labelled_fraction
        total = torch.zeros((), device=y.device)
        if n_labelled < n:
            unlabelled = [part[unknown] for part in inputs]
            bound = self._bound(self._draw(model, guide, *unlabelled, **kwargs))
            total = total - (1 - fraction) * bound.mean()  # (7)
        if n_labelled > 0:
            labels = {"y": y[known]}
            labelled = [part[known] for part in inputs]
            model, guide = poutine.condition(model, labels), poutine.condition(guide, labels)
            draws = self._draw(model, guide, *labelled, **kwargs)
            total = total - fraction * self._bound(draws).mean()  # (6)
            site = draws.guide["y"]
            total = total - self.alpha * (site.scale * site.log_prob).mean()  # (9)
        return n * total

    def sums(self, *data: Tensor) -> Iterator[tuple[float, Self, Sequence[Tensor]]]:
        """Split a batch into unlabelled and labelled data, whose losses are averaged separately."""
        n = len(data[-1])
        known, unknown, n_labelled = self._split(data[-1])
        for rows, size, labelled in ((unknown, n - n_labelled, 0), (known, n_labelled, n_labelled)):
            if size > 0:
                part = copy.copy(self)
                part.labelled_first = labelled
                yield n / size, part, [array[rows] for array in data]

    def _split(self, y: Tensor) -> tuple[Any, Any, int]:
        """Return indices of labelled and of unlabelled data, and the number of labelled ones."""
        if not isinstance(y, FakeTensor):
            known = y != UNLABELLED
            return known, ~known, int(known.sum())
        if self.labelled_first is None:
            raise ValueError(
                "labelled_first should be the number of labelled data at the head of each batch "
                "where a step is compiled, was None"
            )
        size = min(self.labelled_first, len(y))
        return slice(size), slice(size, None), size

    def _draw(self, model: Program, guide: Program, *data: Any, **kwargs: Any) -> Draws:
        nesting = self.max_plate_nesting
        draws = draw(model, guide, *data, k=self.k, max_plate_nesting=nesting, **kwargs)
        check_sites(draws)
        return draws

    def _bound(self, draws: Draws) -> Tensor:
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

    def batches(self, batch_size: int, generator: torch.Generator, *data: Any) -> Iterator[Tensor]:
        """Yield batches of unlabelled data, each once per epoch, and of labelled data in turn."""
        known = torch.as_tensor(as_numpy(data[-1])) != UNLABELLED
        labelled, unlabelled = known.nonzero()[:, 0], (~known).nonzero()[:, 0]
        if len(unlabelled) == 0:
            yield from super().batches(batch_size, generator, *data)
            return
        order = unlabelled[torch.randperm(len(unlabelled), generator=generator)]
        size = min(self.labelled_per_batch, len(labelled))
        queue = labelled[:0]
        for batch in order.split(batch_size):
            if len(queue) < size:
                again = torch.randperm(len(labelled), generator=generator)
                queue = torch.cat([queue, labelled[again]])
            yield torch.cat([queue[:size], batch])
            queue = queue[size:]
