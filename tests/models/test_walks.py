"""What holds for every model, for every objective, or for every case of the table.

A test walks over what it is about: a model costs the tests of `every_model`, an objective those of
`every_objective`, and only what depends on both is tested for each case.
"""

from pathlib import Path

import pyro
import pytest
import torch
from cases import CASES, OBJECTIVES, PAIRS, Case
from pyro import poutine
from pyro.infer import SVI, Predictive
from support import copies, equal, make, objective_of, tensors, trained, unchanged
from support import weights as weights_of

from ppl_vae import fit
from ppl_vae.inference import CUBO, PIWAE, RWS, TVO, DReG
from ppl_vae.inference.draws import Site, draw
from ppl_vae.inference.objectives.parts.multi_sample import MultiSample
from ppl_vae.models import Model

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_model = pytest.mark.parametrize("case", PAIRS, ids=lambda case: case.name)
every_objective = pytest.mark.parametrize("case", OBJECTIVES, ids=lambda case: case.name)
# Objectives of which more particles change the variance alone.
BIASED = MultiSample | CUBO | DReG | PIWAE | RWS | TVO
AVERAGES = [case for case in OBJECTIVES if not isinstance(objective_of(case), BIASED)]


def loss_of(case: Case, model: Model, seed: int = 0) -> torch.Tensor:
    pyro.set_rng_seed(seed)
    data = tensors(case.data(0))
    return objective_of(case).differentiable_loss(model.model, model.guide, *data)


@every_case
def test_runs_under_validation_and_every_parameter_gets_a_gradient(case: Case) -> None:
    model = make(case)
    loss = loss_of(case, model)
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
            assert parameter.grad.isfinite().all(), name


@every_case
def test_the_loss_falls(case: Case) -> None:
    model = make(case)
    before = torch.stack([loss_of(case, model, seed).detach() for seed in range(20)])
    fit(model, case.data(0), objective_of(case), epochs=40, lr=2e-2, progress=False)
    after = torch.stack([loss_of(case, model, seed).detach() for seed in range(20)])
    assert after.mean() < 0.9 * before.mean()
    assert after.mean() + 3 * after.std() < before.mean()


@every_model
def test_a_file_gives_the_same_model(case: Case, tmp_path: Path) -> None:
    model = make(case)
    model.save(tmp_path / "model.safetensors")
    loaded = Model.load(tmp_path / "model.safetensors")
    assert type(loaded) is type(model)
    assert loaded.describe() == model.describe()
    assert equal(loaded.state_dict(), model.state_dict())
    assert loss_of(case, loaded).equal(loss_of(case, model))


@every_model
def test_one_seed_gives_one_result(case: Case) -> None:
    first, again, other = (weights_of(trained(case, seed=seed)) for seed in (1, 1, 2))
    assert equal(first, again)
    assert not equal(first, other)


@every_model
def test_fit_of_one_instance_leaves_another_alone(case: Case) -> None:
    model, other = copies(make(case), 2)
    start = weights_of(model)
    fit(model, case.data(0), objective_of(case), epochs=1, progress=False)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert unchanged(weights_of(model), start) == frozen
    assert equal(weights_of(other), start)
    assert not list(pyro.get_param_store().keys())


@every_objective
def test_svi_trains_every_parameter_of_two_instances_side_by_side(case: Case) -> None:
    pair, data = (make(case, 0), make(case, 1)), tensors(case.data(0))
    svis = [
        SVI(m.model, m.guide, pyro.optim.Adam({"lr": 1e-2}), loss=objective_of(case)) for m in pair
    ]
    for turn in (0, 1, 0, 1):
        before = [weights_of(m) for m in pair]
        svis[turn].step(*data)
        frozen = [name for name, p in pair[turn].named_parameters() if not p.requires_grad]
        assert unchanged(weights_of(pair[turn]), before[turn]) == frozen
        assert equal(weights_of(pair[1 - turn]), before[1 - turn])


@every_objective
def test_the_objective_is_a_module_too(case: Case) -> None:
    model, objective = make(case), objective_of(case)
    pyro.set_rng_seed(0)
    loss = objective(model.model, model.guide)(*tensors(case.data(0)))
    assert loss.equal(loss_of(case, model))
    pyro.set_rng_seed(0)
    number = objective.loss(model.model, model.guide, *tensors(case.data(0)))
    assert number == loss.item()


def of_particle(site: Site, i: int) -> torch.Tensor:
    """The i-th particle's value; dimensions further left are those of enumerated sites."""
    value = site.value.narrow(-2 - len(site.fn.event_shape), i, 1)
    return value.squeeze(0) if value.shape[0] == 1 else value


@every_model
def test_particles_are_a_plate_of_independent_runs(case: Case) -> None:
    # In training mode particles share the statistics of batch normalisation.
    model, inputs, k = make(case).eval(), tensors(case.inputs(0)), 3
    together = draw(model.model, model.guide, *inputs, k=k)
    sampled = [site for site in together.guide.values() if site.enum_dim is None]
    for i in range(k):
        values = {site.name: of_particle(site, i) for site in sampled}
        programs = (poutine.condition(p, data=values) for p in (model.model, model.guide))
        alone = draw(*programs, *inputs)
        for side in ("model", "guide"):
            for name, site in getattr(together, side).items():
                assert site.log_prob.shape[-2:] == (k, len(inputs[0]))
                own = getattr(alone, side)[name].log_prob
                torch.testing.assert_close(site.log_prob[..., i, :], own[..., 0, :], msg=name)


@pytest.mark.parametrize("case", AVERAGES, ids=lambda case: case.name)
def test_more_particles_leave_the_expectation_alone(case: Case) -> None:
    model, data, k = make(case).eval(), tensors(case.data(0)), 5
    settings = {key: v for key, v in case.objective.arguments.items() if key != "k"}
    objectives = [type(objective_of(case))(**settings, k=particles) for particles in (1, k)]
    means, errors = [], []
    for objective in objectives:
        losses = [objective.loss(model.model, model.guide, *data) for _ in range(150)]
        means.append(torch.tensor(losses).mean())
        errors.append(torch.tensor(losses).var() / len(losses))
    assert (means[0] - means[1]).abs() <= 3 * sum(errors).sqrt() + 1e-4
    assert errors[1] <= 0.5 * errors[0] + 1e-9


@every_model
@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_predictive(case: Case, parallel: bool) -> None:
    model, inputs = make(case), tensors(case.inputs(0))
    shapes = {name: (7, *value.shape) for name, value in model.sample(len(inputs[0])).items()}
    programs = poutine.uncondition(model.model), model.model
    with torch.no_grad():
        prior = Predictive(programs[0], num_samples=7, parallel=parallel)(*inputs)
        posterior = Predictive(programs[1], guide=model.guide, num_samples=7, parallel=parallel)(
            *inputs
        )
    assert {name: tuple(value.shape) for name, value in prior.items()} == shapes
    for name in draw(model.model, model.guide, *inputs).guide:
        assert tuple(posterior[name].shape) == shapes[name]
