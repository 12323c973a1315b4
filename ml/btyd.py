"""Order counts and order values as two processes: buy till you die, and Gamma-Gamma.

A customer orders at a rate of their own and may stop for good after any repeat order (BG/NBD:
Fader, Hardie & Lee, "Counting your customers the easy way", Marketing Science 24, 2005), or after
any order, the first one too (MBG/NBD: Batislam, Denizel & Filiztekin, International Journal of
Research in Marketing 24, 2007; formulas as in Wagner & Hoppe, same journal 25, 2008). What an order
is worth varies around a mean of the customer's own (Gamma-Gamma: Fader & Hardie, "The Gamma-Gamma
model of monetary value", 2013) and has nothing to do with how often they order.

Everywhere, for n customers: x (n,) days with an order after the first such day, 0 for one-time
buyers; t_x (n,) from the first to the last of these days; T (n,) from the first day to now. Times
are in weeks, but any unit will do if it is the same for all, the horizon too.

The chance that a customer is still a customer is not offered. BG/NBD gives it as 1 to everybody
with one order, so it must not be read as the opposite of churn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from scipy.linalg import eigh_tridiagonal
from scipy.optimize import minimize
from scipy.special import betaln, digamma, expit, gammaln

from ml.baselines import Estimator
from ml.metrics import Prediction, with_the_silent_tied

Array = np.ndarray
Frame = pd.DataFrame

DAYS_PER_WEEK = 7
SLOPE = 1e-6  # of the log-likelihood per repeat buyer, in log-parameters; below it is flat
LIMIT = 10.0  # no log-parameter leaves its unit by more: e^10 is 22,000
NODES = 64  # relative error of expected_orders below 1e-7 up to a horizon of 100 (alpha + T)
ROWS = 1 << 15  # customers at a time where an array has NODES columns
SMALLEST_VALUE = 0.01  # of the median; a mean order value below it is a refund, not a habit


HISTORY = (
    "tenure_days",
    "recency_days",
    "order_gap_mean_days",
    "average_order_value",
    "frequency_orders",
    "first_order_value",
)


class NotConverged(ValueError):
    """The likelihood has no usable maximum; the message says what the data looked like and what to
    use instead."""


@dataclass(frozen=True)
class BgNbd:
    """Order rates are Gamma(r, rate alpha) over the customers; the chance to stop after an order is
    Beta(a, b). alpha is in the unit of T."""

    r: float
    alpha: float
    a: float
    b: float
    first_can_be_last: ClassVar[bool] = False


@dataclass(frozen=True)
class MbgNbd:
    """As BgNbd, but a customer may also stop after the first order."""

    r: float
    alpha: float
    a: float
    b: float
    first_can_be_last: ClassVar[bool] = True


@dataclass(frozen=True)
class GammaGamma:
    """Order values are Gamma(p, rate v) with v of the customer's own, Gamma(q, rate gamma) over the
    customers; gamma is in the currency."""

    p: float
    q: float
    gamma: float


Orders = BgNbd | MbgNbd
Kind = TypeVar("Kind", BgNbd, MbgNbd)


class _Histories(NamedTuple):
    """x, t_x, T of the rows; orders: the different x, sorted; which: each row's place in them."""

    x: Array
    t_x: Array
    T: Array
    orders: Array
    which: Array


def fit_bg_nbd(x: Array, t_x: Array, T: Array) -> BgNbd:
    """BG/NBD by maximum likelihood.

    Raises ValueError where the input cannot be a history of customers or holds nothing to learn
    from (fewer than two customers, no repeat order), NotConverged where no maximum is found.
    """
    return _fit_orders(BgNbd, x, t_x, T)


def fit_mbg_nbd(x: Array, t_x: Array, T: Array) -> MbgNbd:
    """MBG/NBD by maximum likelihood; errors as in `fit_bg_nbd`."""
    return _fit_orders(MbgNbd, x, t_x, T)


def log_likelihood(model: Orders, x: Array, t_x: Array, T: Array) -> Array:
    """(n,) log-likelihood of each history under the model; leaves out what no parameter changes.

    Raises ValueError where the input cannot be a history of customers.
    """
    seen = _histories(x, t_x, T)
    return _orders_likelihood(np.array(astuple(model)), model.first_can_be_last, seen)[0]


def expected_orders(model: Orders, x: Array, t_x: Array, T: Array, horizon: float) -> Array:
    """(n,) expected days with an order in the next `horizon`, given each history.

    The papers give 2F1 functions, which lose all digits or overflow for loyal customers. The same
    expectation is the mean of (1 - (1 + p horizon / (alpha + T))^-(r + x)) / p over the chance p to
    stop, which is Beta(a, b + x) (MBG/NBD: b + x + 1) for whoever is still a customer; it is
    taken by Gauss-Jacobi quadrature. Raises ValueError as `log_likelihood`, and for a horizon that
    is negative or no number.
    """
    seen = _histories(x, t_x, T)
    _check_horizon(horizon)
    if_alive = np.empty(len(seen.x))
    by_count = np.argsort(seen.which, kind="stable")
    ends = np.cumsum(np.bincount(seen.which, minlength=len(seen.orders)))
    for count, end, size in zip(seen.orders, ends, np.diff(ends, prepend=0), strict=True):
        p, weight = _beta_nodes(model.a, model.b + count + model.first_can_be_last)
        for start in range(end - size, end, ROWS):
            rows = by_count[start : min(start + ROWS, end)]
            passed = np.log1p(np.outer(horizon / (model.alpha + seen.T[rows]), p))
            if_alive[rows] = -np.expm1(-(model.r + count) * passed) @ (weight / p)
    return _alive(model, seen) * if_alive


def order_probability(model: Orders, x: Array, t_x: Array, T: Array, horizon: float) -> Array:
    """(n,) chance of at least one order in the next `horizon`; errors as in `expected_orders`."""
    seen = _histories(x, t_x, T)
    _check_horizon(horizon)
    if_alive = -np.expm1(-(model.r + seen.x) * np.log1p(horizon / (model.alpha + seen.T)))
    return _alive(model, seen) * if_alive


def fit_gamma_gamma(x: Array, mean_value: Array) -> GammaGamma:
    """Gamma-Gamma by maximum likelihood.

    x: (n,) order days that each mean is over, at least 1. mean_value: (n,) above 0. Raises
    ValueError where they are not, or where there are fewer than two customers; NotConverged where
    no maximum is found, or where the model that is found has no mean (q <= 1).
    """
    x, mean_value = _numbers(x=x, mean_value=mean_value)
    if not ((x >= 1) & (x == np.floor(x))).all():
        raise ValueError(
            "Gamma-Gamma learns from repeat buyers: x must be a whole number of order days, at "
            "least 1; leave one-time buyers out of the fit"
        )
    if not (mean_value > 0).all():
        raise ValueError(
            f"{int((mean_value <= 0).sum())} of {len(x)} mean order values are zero or negative; "
            "leave these customers out of the fit"
        )
    if len(x) < 2:
        raise ValueError(f"Gamma-Gamma needs two repeat buyers at least, and there are {len(x)}")
    counts, values, weight = _distinct(x, mean_value)
    middle = float(np.exp(np.average(np.log(values), weights=weight)))
    looks = (
        f"{len(x)} repeat buyers with {x.mean():.3g} repeat orders and {mean_value.mean():.4g} an "
        "order each on average"
    )
    instead = "take each customer's own mean order value"
    found = _maximise(
        lambda parameters: _gamma_gamma_likelihood(parameters, counts, values),
        weight / len(x),
        units={"p": 1.0, "q": 1.0, "gamma": middle},
        starts=([0.0, 1.0, 0.0], [2.0, 1.0, 1.0], [-1.0, 0.5, -1.0]),
        says=lambda why: f"Gamma-Gamma {why} on {looks}; {instead}",
    )
    model = GammaGamma(*map(float, found))
    if model.q <= 1:
        raise NotConverged(
            f"Gamma-Gamma has no mean (q = {model.q:.3g}) on {looks}: a few customers spend "
            f"without measure; {instead}"
        )
    return model


def expected_value(model: GammaGamma, x: Array, mean_value: Array) -> Array:
    """(n,) expected value of one more order, given the mean of x repeat orders.

    With x = 0 it is the mean of the population and mean_value is not read (null will do). Raises
    ValueError where x is negative or null, where mean_value is negative or null and x > 0, or where
    the model has no mean (q <= 1).
    """
    if model.q <= 1:
        raise ValueError(f"a Gamma-Gamma model with q = {model.q:.3g} has no mean")
    x = np.asarray(x, dtype=float)
    x, mean_value = _numbers(x=x, mean_value=np.where(x == 0, 0.0, mean_value))
    if (x < 0).any() or (mean_value < 0).any():
        raise ValueError("x and mean_value must not be negative")
    return model.p * (model.gamma + x * mean_value) / (model.p * x + model.q - 1)


def _fit_orders(kind: type[Kind], x: Array, t_x: Array, T: Array) -> Kind:
    x, t_x, T = _checked(x, t_x, T)
    name = {BgNbd: "BG/NBD", MbgNbd: "MBG/NBD"}[kind]
    if len(x) < 2:
        raise ValueError(f"{name} needs two customers at least, and there are {len(x)}")
    if not x.any():
        raise ValueError(
            f"none of the {len(x)} customers ordered on a second day: {name} has nothing "
            "to learn from; load more history, or use the baseline mean"
        )
    *columns, weight = _distinct(x, t_x, T)
    seen = _histories(*columns)
    found = _maximise(
        lambda parameters: _orders_likelihood(parameters, kind.first_can_be_last, seen),
        weight / (x > 0).sum(),
        units={"r": 1.0, "alpha": float(np.average(seen.T, weights=weight)), "a": 1.0, "b": 1.0},
        starts=([-0.7, -0.7, -0.3, 0.7], [0.7, 0.0, -2.0, 0.0], [-1.5, -2.0, 0.7, 2.0]),
        says=lambda why: (
            f"{name} {why} on {len(x)} customers, {(x > 0).mean():.1%} of them with a "
            f"repeat order, {x.mean():.3g} repeat orders in {T.mean():.3g} weeks each on average; "
            "use the baseline spend_rate or last_window_spend"
        ),
    )
    return kind(*map(float, found))


def _maximise(
    likelihood: Callable[[Array], tuple[Array, Array]],
    weight: Array,
    units: Mapping[str, float],
    starts: tuple[list[float], ...],
    says: Callable[[str], str],
) -> Array:
    """Parameters with the greatest weighted sum of the log-likelihood.

    likelihood(parameters) -> (rows,), and (parameters, rows) derivatives by log-parameters. weight:
    adds up to about one for each customer that teaches something, so that the slope means the same
    for any size and however many one-time buyers there are. units: what each parameter is measured
    in; starts are logs in these units, tried until one ends in a maximum. says(why) makes the
    message of NotConverged.
    """
    unit = np.array(list(units.values()))

    def loss(theta: Array) -> tuple[float, Array]:
        values, gradient = likelihood(unit * np.exp(theta))
        return -float(values @ weight), -(gradient @ weight)

    endless, steep = "", ""
    for start in starts:
        found = minimize(
            loss,
            np.array(start),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-LIMIT, LIMIT)] * len(unit),
            options={"maxiter": 500, "maxcor": 20, "ftol": 1e-15, "gtol": SLOPE / 10},
        )
        slope = np.abs(loss(found.x)[1]).max()
        lost = [name for name, at in zip(units, found.x, strict=True) if abs(at) >= LIMIT]
        if slope <= SLOPE and not lost:
            return unit * np.exp(found.x)
        if lost:
            endless = f"has no maximum ({', '.join(lost)} without end)"
        else:
            steep = f"stays at a slope of {slope:.1g}"
    raise NotConverged(says(endless or steep))


def _orders_likelihood(
    parameters: Array, first_can_be_last: bool, seen: _Histories
) -> tuple[Array, Array]:
    """Log-likelihood (n,) and its derivatives (4, n) by log r, log alpha, log a, log b.

    Equation 6 of Fader, Hardie & Lee 2005, in logs. MBG/NBD is the same with one chance more to
    stop: x + 1 where BG/NBD has x.
    """
    r, alpha, a, b = parameters
    shape, ends = r + seen.orders, b + seen.orders + first_can_be_last
    log_now, log_last = np.log(alpha + seen.T), np.log(alpha + seen.t_x)
    odds, last_end = _odds_gone(parameters, first_can_be_last, seen, log_now - log_last)
    by_count = gammaln(shape) - gammaln(r) + betaln(a, ends) - betaln(a, b)
    values = (
        by_count[seen.which]
        + r * np.log(alpha)
        - shape[seen.which] * log_now
        + np.logaddexp(0, odds)
    )
    gone = expit(odds)
    log_time = log_now - gone * (log_now - log_last)
    per_time = 1 / (alpha + seen.T) + gone * (1 / (alpha + seen.t_x) - 1 / (alpha + seen.T))
    by_r = digamma(shape) - digamma(r) + np.log(alpha)
    by_a = digamma(a + b) - digamma(a + ends)
    by_b = by_a + digamma(ends) - digamma(b)
    gradient = np.stack([
        r * (by_r[seen.which] - log_time),
        r - alpha * shape[seen.which] * per_time,
        a * by_a[seen.which] + gone,
        b * (by_b[seen.which] - gone / last_end),
    ])  # fmt: skip
    return values, gradient


def _odds_gone(
    parameters: Array, first_can_be_last: bool, seen: _Histories, log_wait: Array
) -> tuple[Array, Array]:
    """Log odds (n,) that a customer has stopped, and b + the chances they let pass before (n,).

    log_wait: log((alpha + T) / (alpha + t_x)). Whoever had no chance to stop has minus infinity.
    """
    r, _, a, b = parameters
    chances = seen.orders + first_can_be_last
    last_end = b + np.maximum(chances, 1) - 1
    with np.errstate(divide="ignore"):
        by_count = np.log(a / last_end * (chances > 0))
    return by_count[seen.which] + (r + seen.x) * log_wait, last_end[seen.which]


def _alive(model: Orders, seen: _Histories) -> Array:
    """(n,) chance to be a customer still: a step towards expectations, and no answer by itself."""
    log_wait = np.log((model.alpha + seen.T) / (model.alpha + seen.t_x))
    odds, _ = _odds_gone(np.array(astuple(model)), model.first_can_be_last, seen, log_wait)
    return expit(-odds)


def _beta_nodes(a: float, b: float) -> tuple[Array, Array]:
    """Nodes in (0, 1) and weights of Gauss quadrature over Beta(a, b), each (NODES,).

    Golub & Welsch, Mathematics of Computation 23, 1969, from the recurrence of the Jacobi
    polynomials. scipy's roots_jacobi overflows where b is in the thousands.
    """
    at_one, at_zero = b - 1, a - 1
    both = at_one + at_zero
    n = np.arange(1, NODES)
    middle = np.empty(NODES)
    middle[0] = (at_zero - at_one) / (both + 2)
    middle[1:] = both * (at_zero - at_one) / ((2 * n + both) * (2 * n + both + 2))
    beside = np.empty(NODES - 1)
    beside[0] = 4 * a * b / ((both + 2) ** 2 * (both + 3))
    n, m = n[1:], 2 * n[1:] + both
    beside[1:] = 4 * n * (n + at_one) * (n + at_zero) * (n + both) / (m**2 * (m + 1) * (m - 1))
    p, vectors = eigh_tridiagonal((1 + middle) / 2, np.sqrt(beside) / 2)
    return np.maximum(p, 1e-200), vectors[0] ** 2  # rounding may leave a node at 0 or below


def _gamma_gamma_likelihood(parameters: Array, x: Array, mean_value: Array) -> tuple[Array, Array]:
    """Log-likelihood (n,) and its derivatives (3, n) by log p, log q, log gamma.

    Equation 1a of Fader & Hardie 2013, in logs.
    """
    p, q, gamma = parameters
    total = x * mean_value
    share, rest = -np.log1p(gamma / total), -np.log1p(total / gamma)
    values = -betaln(p * x, q) + p * x * share + q * rest - np.log(mean_value)
    both = digamma(p * x + q)
    gradient = np.stack([
        p * x * (both - digamma(p * x) + share),
        q * (both - digamma(q) + rest),
        q - (p * x + q) * gamma / (gamma + total),
    ])  # fmt: skip
    return values, gradient


def _distinct(*columns: Array) -> tuple[Array, ...]:
    """The different rows, sorted, and how often each occurs."""
    counted = pd.DataFrame(dict(enumerate(columns))).value_counts(sort=False).sort_index()
    return *(counted.index.get_level_values(i).to_numpy() for i in range(len(columns))), (
        counted.to_numpy(dtype=float)
    )


def _numbers(**columns: Array) -> list[Array]:
    """The columns as floats of one length. Raises ValueError where one is null or infinite."""
    found = {name: np.asarray(values, dtype=float) for name, values in columns.items()}
    if len({values.shape for values in found.values()}) > 1 or next(iter(found.values())).ndim != 1:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in found.items())
        raise ValueError(f"columns of one length are needed, and there are {shapes}")
    for name, values in found.items():
        if bad := int((~np.isfinite(values)).sum()):
            raise ValueError(f"{bad} of {len(values)} values of {name} are null or infinite")
    return list(found.values())


def _checked(x: Array, t_x: Array, T: Array) -> list[Array]:
    x, t_x, T = _numbers(x=x, t_x=t_x, T=T)
    for bad, what in (
        ((x < 0) | (x != np.floor(x)), "x must be whole numbers, 0 or more"),
        ((t_x < 0) | (t_x > T), "t_x must lie between 0 and T"),
        ((x == 0) != (t_x == 0), "t_x must be 0 for one-time buyers, and above 0 for all others"),
    ):
        if bad.any():
            raise ValueError(
                f"{what}, and {int(bad.sum())} of {len(x)} customers break that: the first has "
                f"x = {x[bad][0]:g}, t_x = {t_x[bad][0]:g}, T = {T[bad][0]:g}"
            )
    return [x, t_x, T]


def _histories(x: Array, t_x: Array, T: Array) -> _Histories:
    x, t_x, T = _checked(x, t_x, T)
    return _Histories(x, t_x, T, *np.unique(x, return_inverse=True))


def _check_horizon(horizon: float) -> None:
    if not (horizon >= 0 and np.isfinite(horizon)):
        raise ValueError(f"the horizon must be a time from 0 up, not {horizon}")


def _from_features(frame: Frame) -> tuple[Array, Array, Array, Array]:
    """x, t_x, T and the mean value of the repeat orders (null where x = 0) from feature columns.

    Who has no known gap between order days counts as a one-time buyer. Of several orders on the
    first day all but one count towards the value of the repeats. Raises ValueError where a column
    of HISTORY is missing.
    """
    if missing := [name for name in HISTORY if name not in frame]:
        raise ValueError(f"histories need the columns {', '.join(missing)}, and the frame has none")
    columns = [frame[name].to_numpy(dtype=float, na_value=np.nan) for name in HISTORY]
    tenure, recency, gap, mean, orders, first = columns
    x = np.nan_to_num(np.round((tenure - recency) / gap))
    t_x = np.where(x > 0, (tenure - recency) / DAYS_PER_WEEK, 0.0)
    repeats = np.divide(mean * orders - first, x, out=np.full(len(x), np.nan), where=x > 0)
    return x, t_x, tenure / DAYS_PER_WEEK, repeats


class Window(NamedTuple):
    """Of each customer the expected days with an order, the chance of one, and the expected spend,
    each (n,); no spend where Gamma-Gamma cannot be fitted."""

    orders: Array
    chance: Array
    spend: Array | None


def expected_windows(frame: Frame, horizons_days: Sequence[int]) -> dict[int, Window]:
    """What MBG/NBD and Gamma-Gamma, fitted to the histories of one day's customers, expect, by
    horizon in days.

    frame: all customers of the day, with the feature columns that tell their histories. Raises
    ValueError where MBG/NBD cannot be fitted.
    """
    x, t_x, T, mean_value = _from_features(frame)
    model = fit_mbg_nbd(x, t_x, T)
    try:
        value = _order_value(x, mean_value)
    except ValueError:
        value = None
    windows = {}
    for days in horizons_days:
        time = days / DAYS_PER_WEEK
        orders = expected_orders(model, x, t_x, T, time)
        chance = order_probability(model, x, t_x, T, time)
        windows[days] = Window(orders, chance, None if value is None else orders * value)
    return windows


def try_windows(frame: Frame, horizons_days: Sequence[int]) -> dict[int, Window]:
    """`expected_windows`, or nothing where MBG/NBD cannot be fitted."""
    try:
        return expected_windows(frame, horizons_days)
    except ValueError:
        return {}


def _order_value(x: Array, mean_value: Array) -> Array:
    """(n,) what an order is expected to be worth. Raises ValueError where that cannot be had."""
    repeats = mean_value[x > 0]
    smallest = SMALLEST_VALUE * float(np.median(repeats))
    if smallest <= 0:
        raise ValueError("Gamma-Gamma needs order values above zero, and half of them are not")
    worth = mean_value >= smallest
    return expected_value(
        fit_gamma_gamma(x[worth], mean_value[worth]), x, np.clip(mean_value, 0, None)
    )


def _predict_day(kind: type[Kind], horizon_days: int, frame: Frame) -> tuple[Array, Array]:
    """Expected spend and chance of an order of one day's customers, each (n,)."""
    x, t_x, T, mean_value = _from_features(frame)
    horizon = horizon_days / DAYS_PER_WEEK
    orders = _fit_orders(kind, x, t_x, T)
    spend = expected_orders(orders, x, t_x, T, horizon) * _order_value(x, mean_value)
    return spend, order_probability(orders, x, t_x, T, horizon)


def _estimator(kind: type[Kind]) -> Estimator:
    def fit(frame: Frame, labels: Frame, horizon_days: int) -> int:
        return horizon_days

    def predict(horizon_days: int, frame: Frame) -> Prediction:
        spend, probability, ranking = np.full((3, len(frame)), np.nan)
        for rows in frame.groupby("as_of_date", sort=False).indices.values():
            spend[rows], probability[rows] = _predict_day(kind, horizon_days, frame.iloc[rows])
            ranking[rows] = with_the_silent_tied(spend[rows], probability[rows])
        return Prediction(
            score=spend, expected_spend=spend, purchase_probability=probability, ranking=ranking
        )

    return Estimator(fit, predict)


# fit learns nothing, least of all from labels. predict fits the histories of each day of the frame
# it is given, which must hold all customers of the day, and raises ValueError where that fails.
BTYD: Mapping[str, Estimator] = {"bg_nbd": _estimator(BgNbd), "mbg_nbd": _estimator(MbgNbd)}
