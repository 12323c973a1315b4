"""A number for each customer, the same on every machine, in every run and for ever."""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np


def uniform(customer_ids: Iterable[str], purpose: str) -> np.ndarray:
    """(n,) from 0 to below 1, one number per customer; those of two purposes are independent.

    A cryptographic hash, because checksums are not enough: the CRCs of two prefixes before the same
    name differ by a constant, so a split by one would be the split by the other.
    purpose: at most 16 characters of ASCII.
    """
    person = purpose.encode("ascii")
    known: dict[str, float] = {}
    for customer in customer_ids:
        if customer not in known:
            drawn = blake2b(str(customer).encode(), digest_size=8, person=person).digest()
            known[customer] = (int.from_bytes(drawn, "big") >> 11) / 2**53
    return np.array([known[customer] for customer in customer_ids])
