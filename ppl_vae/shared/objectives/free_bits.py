"""How much divergence of a latent variable is free, for both backends."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ppl_vae.shared.arguments import Configurable
from ppl_vae.shared.checks import check_at_least, check_choice

Per: TypeAlias = Literal["site", "unit"]


@dataclass(frozen=True)
class FreeBits(Configurable):
    """Free bits of `ELBO(free_bits=FreeBits(lambda, per))`: each KL term becomes max(lambda, KL).

    KL is averaged over the batch; a term belongs to a latent site or to each of its units. Terms
    below lambda have no gradient.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling, "Improving variational inference
        with inverse autoregressive flow", 2016, arXiv:1606.04934, appendix C.8, where a term may be
        that of any group of units.

    Args:
        nats: The threshold lambda, in nats.
        per: "site", or "unit": a separate term for each dimension of a site's event and each
            element of the plates within a datum.

    Raises:
        ValueError: An argument is invalid.
    """

    nats: float
    per: Per = "site"

    def __post_init__(self) -> None:
        check_at_least("nats", self.nats, 0)
        check_choice("per", self.per, get_args(Per))


def as_free_bits(value: float | FreeBits) -> FreeBits:
    """Convert a number to `FreeBits` per site.

    Raises:
        ValueError: The value is neither a number of at least 0 nor a `FreeBits`.
    """
    if isinstance(value, FreeBits):
        return value
    check_at_least("free_bits", value, 0)
    return FreeBits(value)
