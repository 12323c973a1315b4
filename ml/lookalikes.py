"""Who is most like a customer: the nearest by the angle between embeddings. Pure numpy."""

import numpy as np
import pandas as pd

Array = np.ndarray
Frame = pd.DataFrame

DIGITS = 9  # of a distance; what rounding does to later ones must not order those who are equal


def nearest(customer_ids: Array, vectors: Array, customer_id: str, n: int) -> Frame:
    """The n customers nearest to one of them, the nearest first; all others where there are fewer.

    customer_ids: (m,), each once; vectors: (m, d). Columns: rank (from 1), customer_id, distance:
    1 minus the cosine of the angle, from 0 (the same direction) to 2. Who is equally near comes in
    the order of names. Vectors of no length have no direction and come last, with
    distance 1. Raises ValueError where the customer is not among them.
    """
    (own,) = np.nonzero(customer_ids == customer_id)
    if own.size != 1:
        raise ValueError(f"{customer_id} has no embedding")
    values = np.asarray(vectors, dtype=float)
    length = np.linalg.norm(values, axis=1)
    along = values @ values[own[0]]
    whole = length * length[own[0]]
    cosine = np.divide(along, whole, out=np.zeros_like(along), where=whole > 0)
    distance = np.clip(1 - cosine, 0, 2).round(DIGITS)
    order = np.lexsort((customer_ids, distance, length == 0))
    order = order[order != own[0]][:n]
    return pd.DataFrame({
        "rank": np.arange(1, 1 + order.size),
        "customer_id": customer_ids[order],
        "distance": distance[order],
    })  # fmt: skip
