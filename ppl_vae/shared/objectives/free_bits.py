"""How much divergence of a latent variable is free, for both backends."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ppl_vae.shared.arguments import Configurable
from ppl_vae.shared.checks import check_at_least, check_choice

Per: TypeAlias = Literal["site", "unit"]


@dataclass(frozen=True)
class FreeBits(Configurable):
    """lambda of `ELBO(free_bits=FreeBits(lambda, per))`: a KL term counts as max(lambda, KL).

    KL is the mean over the batch, and a term is that of a latent site or of each of its units.
    Where it is below lambda, no gradient makes it smaller still.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling, "Improving variational inference
        with inverse autoregressive flow", 2016, arXiv:1606.04934, appendix C.8, where a term may be
        that of any group of units.

    Args:
        nats: lambda.
        per: "site", or "unit": each dimension of a site's event, and each place in the plates that
            lie within a datum, has a term of its own.

    Raises:
        ValueError: an argument is not such.
    """

    nats: float
    per: Per = "site"

    def __post_init__(self) -> None:
        check_at_least("nats", self.nats, 0)
        check_choice("per", self.per, get_args(Per))


def as_free_bits(value: float | FreeBits) -> FreeBits:
    """`value`, of which a number is that of a site.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, FreeBits):
        return value
    check_at_least("free_bits", value, 0)
    return FreeBits(value)
