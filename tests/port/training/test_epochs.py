"""An epoch of the port is one program, compiled once, that takes over the memory of its state."""

import numpy as np
from cases import VAE, pixels
from port_support import jax, key

import ppl_vae.numpyro.models as ports
from ppl_vae.numpyro.inference import ELBO, Warmup, fit
from ppl_vae.numpyro.inference.training.optimizers import Stepping
from ppl_vae.numpyro.inference.training.placement import Placement
from ppl_vae.numpyro.inference.training.trainer import Trainer


class Counted(ELBO):
    """Counts how often its loss is traced."""

    traced = 0

    def loss_and_state(self, *args, **kwargs):
        type(self).traced += 1
        return super().loss_and_state(*args, **kwargs)


def pair():
    return ports.VAE(**{**VAE, "hidden": (3,)}, key=key())


def test_nothing_is_compiled_again_in_later_epochs(caplog):
    """Neither for the smaller last batch, nor for a number that changes with the epoch."""
    after = []

    def validate(_):
        after.append((Counted.traced, len(compiled())))
        return {}

    def compiled():
        return [r for r in caplog.records if "Finished XLA compilation of jit(run)" in r.message]

    settings = {"epochs": 4, "batch_size": 10, "progress": False, "device": "cpu"}
    with jax.log_compiles(), caplog.at_level("WARNING"):
        fit(pair(), *pixels(0), Counted(beta=Warmup(3)), validation=validate, **settings)
    # Traced for the check of gradients, for the loop over batches, and for the smaller last one.
    assert after == [(3, 1)] * 4


def test_the_program_takes_over_the_memory_of_its_state():
    place = Placement(jax.devices("cpu")[0])
    (x,) = pixels(0)
    trainer = Trainer(pair(), ELBO(), (x,), place, 8, Stepping())
    before = jax.tree.leaves(trainer.kept)
    assert len(before) > 20
    trainer.epoch(1, 0)
    assert all(array.is_deleted() for array in before)
    assert not any(array.is_deleted() for array in trainer.batches.arrays)
    given = (trainer.batches.arrays, np.arange(24).reshape(3, 8), [], None, key(), 1)
    program = trainer.run.trace(trainer.kept, *given, turns=ELBO().turns())
    assert [e.primitive.name for e in program.jaxpr.eqns].count("scan") == 1
