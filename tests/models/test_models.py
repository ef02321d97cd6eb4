"""Networks, samples and files of models, and what they do to Pyro's parameter store."""

import copy
import gc
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from support import CASE, equal, make, tensors, unchanged, weights
from torch import nn

from ppl_vae import M2, VAE, Classifier, Model, SemiSupervised, fit, mean_loss
from ppl_vae.models import (
    MLP,
    BernoulliNet,
    CategoricalNet,
    ConcatLinear,
    DiagNormalNet,
    HierarchicalVAE,
    Network,
)


def test_concat_linear_is_a_linear_layer_of_the_concatenation() -> None:
    layer = ConcatLinear((4, 3), 2).double()
    x, y = torch.randn(5, 4, dtype=torch.double), torch.eye(3, dtype=torch.double)[:, None, None]
    both = torch.cat([x.expand(3, 1, 5, 4), y.expand(3, 1, 5, 3)], -1)
    assert set(layer.state_dict()) == {"weight", "bias"}
    torch.testing.assert_close(layer(x, y), F.linear(both, layer.weight, layer.bias))


def test_enumerated_classes_share_the_product_with_x() -> None:
    layer, rows = ConcatLinear((4, 3), 2), []
    original = F.linear
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "linear", lambda v, *a: rows.append(v[..., 0].numel()) or original(v, *a))
        layer(torch.randn(5, 4), torch.eye(3)[:, None, None])
    assert rows == [5, 3]


@pytest.mark.parametrize("activation", ["softplus", "relu", "tanh", "elu", "gelu", "silu"])
def test_networks_are_the_written_out_formulas(activation: str) -> None:
    x, f = torch.randn(2, 5, 4), getattr(F, activation)
    normal = DiagNormalNet(4, 3, (6, 5), activation)
    first, second = normal.trunk.layers
    h = f(second(f(first(x))))
    q = normal(x)
    torch.testing.assert_close(q.mean, normal.loc(h))
    torch.testing.assert_close(q.variance, normal.log_var(h).exp())
    assert (q.batch_shape, q.event_shape) == ((2, 5), (3,))
    bernoulli, categorical = BernoulliNet(4, 3, (), activation), CategoricalNet(4, 3, ())
    torch.testing.assert_close(bernoulli(x).mean, torch.sigmoid(bernoulli.logits(x)))
    torch.testing.assert_close(categorical(x).probs, categorical.logits(x).softmax(-1))
    assert MLP(4, ()).out_dim == 4


@pytest.mark.parametrize("cls", [VAE, M2, Classifier])
def test_the_activation_of_a_model_is_that_of_all_its_networks(cls: type[Model]) -> None:
    trunks = [module for module in cls(6, activation="tanh").modules() if isinstance(module, MLP)]
    assert trunks
    assert {trunk.activation for trunk in trunks} == {"tanh"}


def test_pixels_in_grey_are_scored_by_the_formula_of_bits() -> None:
    net, z, x = BernoulliNet(2, 3, ()), torch.randn(5, 2), torch.rand(5, 3)
    p = torch.sigmoid(net.logits(z))
    by_hand = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(net(z).log_prob(x), by_hand)


def test_samples_have_the_distribution_of_the_model() -> None:
    model = make(CASE["m2-unlabelled"])
    sample = model.sample(4000)
    assert {name: tuple(v.shape) for name, v in sample.items()} == {
        "y": (4000,),
        "z": (4000, 2),
        "x": (4000, 6),
    }
    assert (sample["y"].bincount(minlength=3) / 4000 - 1 / 3).abs().max() < 0.03
    assert sample["z"].mean(0).abs().max() < 0.06
    assert (sample["z"].var(0) - 1).abs().max() < 0.1
    expected = model.decoder(sample["z"], model.one_hot(sample["y"])).mean.mean(0)
    assert (sample["x"].mean(0) - expected).abs().max() < 0.03


def test_the_classes_of_a_classifier_are_its_network() -> None:
    model, (x, y) = make(CASE["classifier"]), tensors(CASE["classifier"].data(0))
    probs = model.classifier.logits(model.classifier.trunk(x)).softmax(-1)
    torch.testing.assert_close(model.predict_proba(x), probs.detach())
    assert model.predict(x).equal(probs.argmax(-1))
    assert not model.predict_proba(x).requires_grad
    assert model.sample(5)["y"].shape == y[:5].shape


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_arrays_are_taken_in_either_precision(dtype: str) -> None:
    case = CASE["m2-unlabelled"]
    model, (x,) = make(case), case.data(0)
    expected = model.predict_proba(torch.as_tensor(x))
    torch.testing.assert_close(model.predict_proba(x.astype(dtype)), expected)
    assert model.reconstruct(x.astype(dtype)).shape == x.shape
    assert model.reconstruct(x.astype(dtype), CASE["m2-labelled"].data(0)[1]).dtype == torch.float32


def test_a_reconstruction_is_the_mean_given_a_draw_of_the_guide() -> None:
    case = CASE["m2-labelled"]
    model, (x, y) = make(case), tensors(case.data(0))
    pyro.set_rng_seed(3)
    z = model.encoder(x, model.one_hot(y)).sample()
    pyro.set_rng_seed(3)
    mean = model.reconstruct(x, y)
    torch.testing.assert_close(mean, model.decoder(z, model.one_hot(y)).mean.detach())


def test_a_model_remembers_its_arguments_defaults_included() -> None:
    described = Classifier(6).describe()
    expected = {"x_dim": 6, "n_classes": 10, "hidden": [500], "classifier": None}
    assert described["class"] == "Classifier"
    assert described["arguments"].items() >= expected.items()
    injected = VAE(6, 2, encoder=DiagNormalNet(6, 2, (3,))).describe()["arguments"]
    expected = {"in_dims": 6, "out_dim": 2, "hidden": [3], "activation": "softplus"}
    expected |= {"batch_norm": False}
    assert injected["encoder"] == {"class": "DiagNormalNet", "arguments": expected}
    assert injected["hidden"] == [200, 200]


class LearnedNormal(Network):
    """A prior of the user's own, with parameters."""

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.randn(z_dim))

    def forward(self) -> dist.Independent:
        return dist.Independent(dist.Normal(self.loc, 1.0), 1)


def test_an_injected_prior_is_saved_and_a_foreign_network_is_named(tmp_path: Path) -> None:
    model = VAE(6, 2, (4,), prior=LearnedNormal(2))
    model.save(tmp_path / "model")
    loaded = VAE.load(tmp_path / "model")
    assert isinstance(loaded.prior, LearnedNormal)
    assert equal(loaded.state_dict(), model.state_dict())
    with pytest.raises(ValueError, match=r"VAE\(encoder=\.\.\.\).*was Linear"):
        VAE(6, 2, (4,), encoder=nn.Linear(6, 2)).save(tmp_path / "foreign")
    assert not (tmp_path / "foreign").exists()


def test_a_file_of_a_subclass_is_loaded_by_its_parents_only(tmp_path: Path) -> None:
    Classifier(6, 3, (4,)).save(tmp_path / "model")
    assert isinstance(Model.load(tmp_path / "model"), Classifier)
    with pytest.raises(ValueError, match=r"M2.*was 'Classifier'"):
        M2.load(tmp_path / "model")


def svi_step(model: Model, x: torch.Tensor, svi: SVI | None = None) -> SVI:
    """One step, which must train every parameter."""
    loss = TraceEnum_ELBO(max_plate_nesting=1) if isinstance(model, M2) else Trace_ELBO()
    svi = svi or SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-2}), loss=loss)
    before = weights(model)
    svi.step(x)
    assert not unchanged(weights(model), before)
    return svi


@pytest.mark.parametrize("name", ["vae", "m2-unlabelled"])
def test_svi_of_copies_replaced_networks_and_a_cleared_store(name: str) -> None:
    model, (x,) = make(CASE[name]), tensors(CASE[name].data(0))
    svi = svi_step(model, x)
    twin = copy.deepcopy(model)
    svi_step(twin, x)
    before = weights(twin)
    svi_step(model, x, svi)
    assert equal(weights(twin), before)
    pyro.clear_param_store()
    svi_step(model, x, svi)
    model.decoder = copy.deepcopy(model.decoder)
    svi_step(model, x, svi)
    assert equal(weights(twin), before)
    model.encoder.requires_grad_(False)
    before = weights(model)
    svi.step(x)
    assert unchanged(weights(model), before) == [n for n in before if n.startswith("encoder.")]


def test_the_store_forgets_an_instance_that_is_gone() -> None:
    (x,), store = tensors(CASE["vae"].data(0)), pyro.get_param_store()
    kept, gone = make(CASE["vae"]), make(CASE["vae"])
    svi_step(kept, x)
    svi_step(gone, x)
    n = len(weights(kept))
    assert len(store) == 2 * n
    del gone
    gc.collect()
    assert len(store) == n
    svi_step(kept, x)


def test_tracing_a_model_outside_of_svi_leaves_the_store_alone() -> None:
    model, (x,) = make(CASE["vae"]), tensors(CASE["vae"].data(0))
    model.sample(3)
    model.reconstruct(x)
    Trace_ELBO().loss(model.model, model.guide, x)
    assert len(pyro.get_param_store()) == 0


def test_a_model_without_programs_says_so() -> None:
    class Empty(Model):
        pass

    for program in (Empty().model, Empty().guide):
        with pytest.raises(TypeError, match="Empty should define"):
            program()


def test_a_replaced_network_is_what_is_saved(tmp_path: Path) -> None:
    model = VAE(6, 2, (4,))
    model.decoder = BernoulliNet(2, 6, (4,), "tanh")
    model.save(tmp_path / "vae.safetensors")
    loaded = VAE.load(tmp_path / "vae.safetensors")
    z = torch.randn(3, 2)
    torch.testing.assert_close(loaded.decoder(z).mean, model.decoder(z).mean)
    model.decoder = torch.nn.Linear(2, 6)
    with pytest.raises(ValueError, match="decoder"):
        model.save(tmp_path / "vae.safetensors")


def test_dropout_is_of_training_alone() -> None:
    net = CategoricalNet(6, 3, (50,), dropout=(0.5, 0.5))
    x = torch.ones(4, 6)
    assert not torch.equal(net(x).logits, net(x).logits)
    model = M2(6, 3, 2, (4,), classifier=net)
    torch.testing.assert_close(model.predict_proba(x), model.predict_proba(x))
    assert model.training
    assert net.training  # as before
    data, objective = (x.numpy(), np.array([0, 1, 2, -1])), SemiSupervised()
    fit(model, data, objective, epochs=1, progress=False)
    assert mean_loss(model, x) == mean_loss(model.eval(), x)


def test_decode_is_the_mean_of_the_data_given_the_latents() -> None:
    torch.manual_seed(0)
    model = HierarchicalVAE(6, (3, 2), ((5,), (4,)))
    drawn = model.sample(7)
    assert torch.equal(model.decode(drawn), model.decoder(drawn["z_1"]).mean)
    with pytest.raises(ValueError, match="latents should hold the values of latent sites"):
        model.decode({"x": drawn["x"]})


def test_a_decoder_that_starts_at_the_mean_of_the_data() -> None:
    net = BernoulliNet(2, 3, (4,))
    mean = torch.tensor([0.0, 0.3, 1.0])
    assert net.start_at(mean) is net
    assert torch.allclose(net.logits.bias.sigmoid(), torch.tensor([0.001, 0.3, 0.999]))
    with pytest.raises(ValueError, match=r"mean should have shape \(3,\), had \(2,\)"):
        net.start_at(mean[:2])


def test_a_pair_without_annotations_is_loaded(tmp_path: Path) -> None:
    class Unannotated(VAE):
        def __init__(self, x_dim, hidden=(4,)):  # type: ignore[no-untyped-def]
            super().__init__(x_dim, 2, hidden)

    model = Unannotated(6)
    model.save(tmp_path / "model")
    loaded = Unannotated.load(tmp_path / "model")
    assert loaded.arguments == model.arguments == {"x_dim": 6, "hidden": (4,)}
    assert equal(loaded.state_dict(), model.state_dict())


class Sum(Model):
    """A pair of x and y with an `x_dim` and a `decoder`, and without a `check`."""

    def __init__(self) -> None:
        super().__init__()
        self.x_dim, self.decoder = 3, DiagNormalNet(1, 3, ())

    def model(self, x: torch.Tensor, y: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", self.decoder(y), obs=x)

    def guide(self, x: torch.Tensor, y: torch.Tensor) -> None:
        pass


def test_the_default_check_is_of_a_model_of_x_alone() -> None:
    Sum().check(torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"one length, had the lengths \[2, 3\]"):
        Sum().check(torch.zeros(2, 3), torch.zeros(3, 1))
    vae = VAE(3, 2, (4,), decoder=DiagNormalNet(2, 3, (4,)))
    vae.check(torch.full((2, 3), 7.0))
    with pytest.raises(ValueError, match=r"x should have shape \(n, 3\), had \(2, 5\)"):
        vae.check(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"data should be \(x\), had 2 arrays"):
        vae.check(torch.zeros(2, 3), torch.zeros(2, 1))
