"""Published results on CDNOW, integrals and loops over the papers' definitions, and simulation."""

import importlib.metadata
import math
from dataclasses import astuple, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import gamma, nbinom

from ml import btyd
from ml.btyd import BTYD, BgNbd, GammaGamma, MbgNbd, NotConverged

KINDS = {BgNbd: btyd.fit_bg_nbd, MbgNbd: btyd.fit_mbg_nbd}
WEEKS = 13


class Cdnow(NamedTuple):
    x: np.ndarray
    t_x: np.ndarray
    T: np.ndarray
    mean_value: np.ndarray


@pytest.fixture(scope="module")
def cdnow() -> Cdnow:
    """The 2,357 customers of the papers, to 30 September 1997, in weeks; a day is one order."""
    try:
        installed = importlib.metadata.files("lifetimes") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("CDNOW comes with the package lifetimes (extra `demo`), not installed here")
    [sample] = [file.locate() for file in installed if file.name == "CDNOW_sample.txt"]
    columns = ["of_all", "customer", "day", "discs", "amount"]
    lines = pd.read_csv(str(sample), sep=r"\s+", names=columns, parse_dates=["day"])
    end = pd.Timestamp("1997-09-30")
    days = lines[lines["day"] <= end].groupby(["customer", "day"], as_index=False)["amount"].sum()
    seen = days.groupby("customer")["day"].agg(["min", "max", "size"])
    repeats = days[days["day"] > days["customer"].map(seen["min"])]
    return Cdnow(
        (seen["size"] - 1).to_numpy(),
        ((seen["max"] - seen["min"]).dt.days / 7).to_numpy(),
        ((end - seen["min"]).dt.days / 7).to_numpy(),
        repeats.groupby("customer")["amount"].mean().reindex(seen.index).to_numpy(),
    )


def simulated(model, T, seed=0):
    """The day's history (x, t_x) and the later orders (WEEKS after T), one order at a time."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(model.r, 1 / model.alpha, len(T))
    stop = rng.beta(model.a, model.b, len(T))
    x, t_x, later, at = np.zeros((4, len(T)))
    here = np.arange(len(T))
    if isinstance(model, MbgNbd):
        here = here[rng.random(len(here)) >= stop[here]]
    while len(here):
        at[here] += rng.exponential(1 / np.maximum(rate[here], 1e-300))
        here = here[at[here] <= T[here] + WEEKS]
        known = at[here] <= T[here]
        x[here] += known
        t_x[here[known]] = at[here[known]]
        later[here] += ~known
        here = here[rng.random(len(here)) >= stop[here]]
    return x, t_x, later


def gamma_density(shape, rate):
    constant = shape * math.log(rate) - math.lgamma(shape)
    return lambda v: math.exp(constant + (shape - 1) * math.log(v) - rate * v)


def beta_density(a, b):
    constant = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return lambda p: math.exp(constant + (a - 1) * math.log(p) + (b - 1) * math.log1p(-p))


def integral(function, end):
    return quad(function, 0, end, epsabs=0, epsrel=1e-10, limit=300)[0]


def likelihoods(model, x, t_x, T):
    """Of the history together with being a customer still, and with having stopped.

    Integrals of what the papers say of one customer with rate l and chance p to stop.
    """
    chances = x + isinstance(model, MbgNbd)

    def over_rates(time):
        prior = gamma_density(model.r, model.alpha)
        end = gamma(model.r + x, scale=1 / (model.alpha + time)).isf(1e-16)
        return integral(lambda rate: rate**x * math.exp(-rate * time) * prior(rate), end)

    def over_stops(function):
        prior = beta_density(model.a, model.b)
        return integral(lambda p: function(p) * prior(p), 1)

    stays = over_stops(lambda p: (1 - p) ** chances) * over_rates(T)
    if chances == 0:
        return stays, 0.0
    return stays, over_stops(lambda p: p * (1 - p) ** (chances - 1)) * over_rates(t_x)


def orders_if_alive(model, x, T, horizon):
    """Sum over n of P(n orders or more, if nobody stopped) x P(no stop at the n - 1 before)."""
    ever = nbinom(model.r + x, (model.alpha + T) / (model.alpha + T + horizon))
    n = np.arange(int(ever.isf(1e-14)) + 2)
    end = model.b + x + isinstance(model, MbgNbd)
    stays = np.cumprod(np.concatenate([[1.0], (end + n[:-1]) / (model.a + end + n[:-1])]))
    return float((ever.sf(n) * stays).sum())


def slopes(function, at, step=1e-5):
    """Central differences by the logs of the parameters."""
    moves = np.exp(step * np.eye(len(at)))
    return np.stack([(function(at * m) - function(at / m)) / (2 * step) for m in moves])


HISTORIES = [(0, 0.0, 40.0), (1, 30.0, 30.5), (2, 3.0, 38.86), (7, 20.0, 26.0), (25, 50.0, 104.0)]
MODELS = [
    BgNbd(0.243, 4.414, 0.793, 2.426),
    BgNbd(2.0, 5.0, 1.0, 0.6),
    MbgNbd(0.525, 6.183, 0.891, 1.614),
    MbgNbd(1.4, 1.4, 2.5, 40.0),
]


def test_bg_nbd_is_the_published_model_of_cdnow(cdnow):
    """Fader, Hardie & Lee 2005, table 2; 1.226 orders: their note on BG/NBD in Excel."""
    assert (len(cdnow.x), (cdnow.x > 0).sum()) == (2357, 946)
    model = btyd.fit_bg_nbd(cdnow.x, cdnow.t_x, cdnow.T)
    assert astuple(model) == pytest.approx((0.243, 4.414, 0.793, 2.426), abs=5e-4)
    total = btyd.log_likelihood(model, cdnow.x, cdnow.t_x, cdnow.T).sum()
    assert total == pytest.approx(-9582.4, abs=0.05)
    [orders] = btyd.expected_orders(model, [2], [30.43], [38.86], 39)
    assert orders == pytest.approx(1.226, abs=5e-4)


def test_mbg_nbd_is_the_published_model_of_cdnow(cdnow):
    """The estimates of the R package BTYDplus (Platzer), which lifetimes repeats."""
    model = btyd.fit_mbg_nbd(cdnow.x, cdnow.t_x, cdnow.T)
    assert astuple(model) == pytest.approx((0.525, 6.183, 0.891, 1.614), abs=5e-4)


def test_gamma_gamma_is_the_published_model_of_cdnow(cdnow):
    """Fader & Hardie 2013, section 5."""
    repeat = cdnow.x > 0
    model = btyd.fit_gamma_gamma(cdnow.x[repeat], cdnow.mean_value[repeat])
    assert astuple(model) == pytest.approx((6.25, 3.74, 15.44), abs=0.005)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_the_likelihood_is_the_integral_over_all_customers(model):
    found = btyd.log_likelihood(model, *np.transpose(HISTORIES))
    expected = [np.log(sum(likelihoods(model, *history))) for history in HISTORIES]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_expected_orders_are_a_sum_over_every_order_that_could_come(model):
    found = btyd.expected_orders(model, *np.transpose(HISTORIES), WEEKS)
    for orders, (x, t_x, T) in zip(found, HISTORIES, strict=True):
        stays, stops = likelihoods(model, x, t_x, T)
        expected = stays / (stays + stops) * orders_if_alive(model, x, T, WEEKS)
        assert orders == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("a", "b"), [(0.05, 0.3), (1.0, 1.0), (30.0, 2.0)])
def test_ten_thousand_orders_lose_no_digits(kind, a, b):
    model = kind(0.3, 2.0, a, b)
    [orders] = btyd.expected_orders(model, [10_000], [700.0], [700.0], 26)
    stopped = a / (b + 10_000 - (kind is BgNbd))
    expected = orders_if_alive(model, 10_000, 700, 26) / (1 + stopped)
    assert orders == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_horizon_of_a_hundred_lives_is_good_to_seven_digits(kind):
    model = kind(2.0, 1.0, 0.95, 0.05)
    [orders] = btyd.expected_orders(model, [5], [3.0], [3.0], 400)
    stopped = 0.95 / (0.05 + 5 - (kind is BgNbd))
    expected = orders_if_alive(model, 5, 3.0, 400) / (1 + stopped)
    assert orders == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("a", "b"), [(1e-20, 1.0), (1e-40, 1e-4), (1e-12, 1e4)])
def test_where_nobody_stops_orders_go_on_at_their_rate(kind, a, b):
    [orders] = btyd.expected_orders(kind(0.3, 2.0, a, b), [3], [7.0], [7.0], 26)
    assert orders == pytest.approx(3.3 / 9 * 26, rel=1e-7)
    assert (btyd._beta_nodes(a, b)[0] > 0).all()


@pytest.mark.parametrize("model", [BgNbd(0.6, 5.0, 0.8, 2.0), MbgNbd(0.6, 5.0, 0.8, 2.0)], ids=str)
def test_simulated_customers_order_as_often_as_expected(model):
    T = np.random.default_rng(1).uniform(4, 60, 200_000)
    x, t_x, later = simulated(model, T)
    for found, truth in (
        (btyd.expected_orders(model, x, t_x, T, WEEKS), later),
        (btyd.order_probability(model, x, t_x, T, WEEKS), later > 0),
    ):
        recent = t_x > T / 2
        for group in (x == 0, (x == 1) & recent, (x == 1) & ~recent, (x > 1) & recent, x > 4):
            error = (found - truth)[group]
            assert abs(error.mean()) < 4 * error.std() / np.sqrt(group.sum())


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)),
    logs=st.lists(st.floats(-7, 7), min_size=4, max_size=4),
    x=st.integers(0, 10_000),
    T=st.floats(0.2, 1000),
    last=st.floats(0.01, 1),
)
def test_no_history_overflows_or_goes_null(kind, logs, x, T, last):
    model = kind(*np.exp(logs))
    history = [x], [last * T if x else 0.0], [T]
    assert np.isfinite(btyd.log_likelihood(model, *history)).all()
    [orders] = btyd.expected_orders(model, *history, WEEKS)
    [longer] = btyd.expected_orders(model, *history, 2 * WEEKS)
    [chance] = btyd.order_probability(model, *history, WEEKS)
    if_never_stopping = (model.r + x) * WEEKS / (model.alpha + T)
    assert 0 <= chance <= 1
    assert chance * (1 - 1e-6) <= orders <= if_never_stopping * (1 + 1e-6)
    assert orders <= longer


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_order_counts_are_finite_differences(kind):
    seen = btyd._histories(*np.transpose(HISTORIES))
    for at in (np.array([0.3, 4.0, 0.8, 2.4]), np.array([3.0, 0.5, 1.7, 0.2])):
        known = btyd._orders_likelihood(at, kind.first_can_be_last, seen)[1]
        expected = slopes(lambda p: btyd._orders_likelihood(p, kind.first_can_be_last, seen)[0], at)
        assert known == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_gradients_of_order_values_are_finite_differences():
    x, values = np.array([1.0, 2, 30]), np.array([3.0, 80, 25])
    for at in (np.array([6.25, 3.74, 15.44]), np.array([0.4, 1.5, 200.0])):
        known = btyd._gamma_gamma_likelihood(at, x, values)[1]
        expected = slopes(lambda p: btyd._gamma_gamma_likelihood(p, x, values)[0], at)
        assert known == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(("x", "mean_value"), [(1, 3.0), (2, 80.0), (12, 25.0)])
def test_order_values_are_integrals_over_all_customers(x, mean_value):
    """The mean of x orders, each Gamma(p, rate v), is Gamma(p x, rate v x)."""
    model = GammaGamma(6.25, 3.74, 15.44)
    prior = gamma_density(model.q, model.gamma)
    end = gamma(model.q + model.p * x, scale=1 / (model.gamma + x * mean_value)).isf(1e-16)

    def of_one(v):
        return gamma_density(model.p * x, v * x)(mean_value) * prior(v)

    [found] = btyd._gamma_gamma_likelihood(
        np.array(astuple(model)), np.array([x]), np.array([mean_value])
    )[0]
    assert found == pytest.approx(np.log(integral(of_one, end)), abs=1e-6)
    expected = integral(lambda v: of_one(v) * model.p / v, end) / integral(of_one, end)
    assert btyd.expected_value(model, [x], [mean_value]) == pytest.approx([expected], rel=1e-6)


def test_one_time_buyers_are_expected_to_spend_the_mean_of_all():
    model = GammaGamma(6.25, 3.74, 15.44)
    prior = gamma_density(model.q, model.gamma)
    mean = integral(lambda v: prior(v) * model.p / v, 10)
    assert btyd.expected_value(model, [0], [np.nan]) == pytest.approx([mean])


@pytest.mark.parametrize("truth", [BgNbd(0.6, 5.0, 0.8, 2.0), MbgNbd(0.6, 5.0, 0.8, 2.0)], ids=str)
def test_parameters_come_back_from_simulated_customers(truth):
    T = np.random.default_rng(2).integers(30, 700, 60_000) / 7
    x, t_x, _ = simulated(truth, T)
    found = KINDS[type(truth)](x, t_x, T)
    assert astuple(found) == pytest.approx(astuple(truth), rel=0.1)


def test_order_values_come_back_from_simulated_customers():
    rng = np.random.default_rng(3)
    x = rng.integers(1, 20, 40_000)
    rate = rng.gamma(3.74, 1 / 15.44, len(x))
    found = btyd.fit_gamma_gamma(x, rng.gamma(6.25 * x) / (rate * x))
    assert astuple(found) == pytest.approx((6.25, 3.74, 15.44), rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_customers_weigh_and_their_order_does_not(kind):
    T = np.random.default_rng(4).integers(30, 300, 3_000) / 7
    x, t_x, _ = simulated(kind(0.6, 5.0, 0.8, 2.0), T)
    once = KINDS[kind](x, t_x, T)
    thrice = KINDS[kind](*(np.tile(column, 3) for column in (x, t_x, T)))
    assert astuple(thrice) == pytest.approx(astuple(once), rel=1e-4)
    assert KINDS[kind](x[::-1], t_x[::-1], T[::-1]) == once
    heavier = x > 0
    twice = [np.concatenate([column, column[heavier]]) for column in (x, t_x, T)]
    assert KINDS[kind](*twice).r > 1.2 * once.r


@pytest.mark.parametrize("kind", KINDS)
def test_days_and_weeks_tell_the_same(kind):
    T = np.random.default_rng(5).integers(30, 300, 3_000) / 7
    x, t_x, _ = simulated(kind(0.6, 5.0, 0.8, 2.0), T)
    weeks, days = KINDS[kind](x, t_x, T), KINDS[kind](x, 7 * t_x, 7 * T)
    assert astuple(days) == pytest.approx(astuple(replace(weeks, alpha=7 * weeks.alpha)), rel=1e-3)


@pytest.mark.parametrize("fit", KINDS.values())
@pytest.mark.parametrize(
    ("x", "t_x", "T", "says"),
    [
        ([2], [3], [9], "two customers at least, and there are 1"),
        ([], [], [], "two customers at least, and there are 0"),
        ([0, 0], [0, 0], [5, 9], "none of the 2 customers ordered on a second day"),
        ([1, 0], [6, 0], [5, 9], "t_x must lie between 0 and T, and 1 of 2 .* t_x = 6, T = 5"),
        ([1, 0], [-1, 0], [5, 9], "t_x must lie between 0 and T"),
        ([1, 0], [2, 1], [5, 9], "t_x must be 0 for one-time buyers"),
        ([1, 2], [2, 0], [5, 9], "above 0 for all others"),
        ([-1, 2], [2, 1], [5, 9], "x must be whole numbers"),
        ([1.5, 2], [2, 1], [5, 9], "x must be whole numbers"),
        ([1, np.nan], [2, 1], [5, 9], "1 of 2 values of x are null or infinite"),
        ([1, 2], [2, 1], [5, np.inf], "1 of 2 values of T are null or infinite"),
        ([1, 2], [2, 1], [5], "columns of one length are needed"),
    ],
)
def test_what_is_no_history_of_customers_is_refused(fit, x, t_x, T, says):
    with pytest.raises(ValueError, match=says):
        fit(x, t_x, T)


@pytest.mark.parametrize(
    ("x", "mean_value", "says"),
    [
        ([1, 2], [5, 0], "1 of 2 mean order values are zero or negative"),
        ([1, 2], [5, -3], "1 of 2 mean order values are zero or negative"),
        ([0, 2], [5, 3], "leave one-time buyers out"),
        ([3], [5], "two repeat buyers at least, and there are 1"),
        ([1, 2], [5, np.nan], "1 of 2 values of mean_value are null"),
    ],
)
def test_what_is_no_order_value_is_refused(x, mean_value, says):
    with pytest.raises(ValueError, match=says):
        btyd.fit_gamma_gamma(x, mean_value)


@pytest.mark.parametrize("horizon", [-1, np.nan, np.inf])
def test_a_horizon_that_is_no_time_is_refused(horizon):
    for asked in (btyd.expected_orders, btyd.order_probability):
        with pytest.raises(ValueError, match="horizon"):
            asked(MODELS[0], [0], [0], [5], horizon)


def test_a_likelihood_without_a_maximum_is_said_aloud():
    """Customers who all order alike and never stop: a, b or both run off."""
    rng = np.random.default_rng(6)
    T = rng.uniform(10, 100, 2_000)
    x = rng.poisson(0.3 * T)
    t_x = np.where(x > 0, T * rng.beta(np.maximum(x, 1), 1), 0)
    for kind, fit in KINDS.items():
        name = "MBG/NBD" if kind is MbgNbd else "BG/NBD"
        with pytest.raises(NotConverged, match=rf"^{name} .* 2000 customers, 9.*use the baseline"):
            fit(x, t_x, T)
    with pytest.raises(NotConverged, match=r"50 repeat buyers .* own mean order value"):
        btyd.fit_gamma_gamma(np.ones(50), np.full(50, 20.0))


def test_one_repeat_buyer_in_thousands_is_no_flat_place_to_stop():
    """The slope is judged by what teaches: all but one of these histories say next to nothing."""
    T = np.random.default_rng(1).integers(7, 730, 3_000) / 7
    x = np.zeros(3_000)
    x[0] = 1
    with pytest.raises(NotConverged, match="a without end"):
        btyd.fit_mbg_nbd(x, x * T / 2, T)


def test_a_search_that_stops_on_a_slope_is_no_maximum():
    """A ridge: the likelihood falls on both sides of 1, and is level nowhere."""

    def ridge(parameters):
        away = np.log(parameters)
        return -np.abs(away), -np.sign(away + 1e-300)[:, None]

    with pytest.raises(NotConverged, match=r"the ridge stays at a slope of 1$"):
        btyd._maximise(ridge, np.ones(1), {"p": 1.0}, ([0.3],), lambda why: f"the ridge {why}")


def test_order_values_without_a_mean_are_said_aloud():
    rng = np.random.default_rng(7)
    x = rng.integers(1, 10, 2_000)
    values = rng.gamma(6 * x) / (rng.gamma(0.6, 1, len(x)) * x)
    with pytest.raises(NotConverged, match="no mean"):
        btyd.fit_gamma_gamma(x, values)
    with pytest.raises(ValueError, match="no mean"):
        btyd.expected_value(GammaGamma(6, 0.6, 1), [0], [np.nan])


def test_the_chance_of_being_a_customer_still_is_not_on_offer():
    assert not [name for name in dir(btyd) if "alive" in name and not name.startswith("_")]


def a_day(customers=600, day="2026-03-01", seed=8):
    """Order days and orders of one day's customers, and the feature columns that say so."""
    rng = np.random.default_rng(seed)
    tenure = rng.integers(20, 400, customers)
    x, t_x, _ = simulated(BgNbd(0.9, 5.0, 0.8, 2.0), tenure / 7, seed)
    last = np.ceil(7 * t_x)
    x = np.minimum(x, last)
    first, repeat = rng.gamma(3, 10, (2, customers))
    repeat *= rng.gamma(5, 1 / 5, customers)
    frame = pd.DataFrame({
        "customer_id": [f"c{i}" for i in range(customers)],
        "as_of_date": pd.Timestamp(day),
        "tenure_days": tenure,
        "recency_days": tenure - last.astype(int),
        "order_gap_mean_days": pd.Series(last / np.where(x > 0, x, np.nan), dtype="Float64"),
        "frequency_orders": 1 + x.astype(int),
        "average_order_value": (first + x * repeat) / (1 + x),
        "first_order_value": first,
    })  # fmt: skip
    return frame, x, last / 7, tenure / 7, np.where(x > 0, repeat, np.nan)


@pytest.mark.parametrize(("name", "kind"), [("bg_nbd", BgNbd), ("mbg_nbd", MbgNbd)])
def test_the_estimators_read_histories_out_of_features(name, kind):
    frame, x, t_x, T, mean_value = a_day()
    said = BTYD[name].predict(BTYD[name].fit(frame, frame[[]], 91), frame)
    orders = KINDS[kind](x, t_x, T)
    values = btyd.fit_gamma_gamma(x[x > 0], mean_value[x > 0])
    expected = btyd.expected_orders(orders, x, t_x, T, 13)
    expected *= btyd.expected_value(values, x, mean_value)
    assert said.expected_spend == pytest.approx(expected, rel=1e-3)
    assert list(said.score) == list(said.expected_spend)
    chance = btyd.order_probability(orders, x, t_x, T, 13)
    assert said.purchase_probability == pytest.approx(chance, rel=1e-3)


@pytest.mark.parametrize("estimator", BTYD.values(), ids=BTYD)
def test_days_are_learned_apart_and_labels_not_at_all(estimator):
    one, other = a_day()[0], a_day(day="2026-04-01", seed=9)[0]
    both = pd.concat([one, other]).sample(frac=1, random_state=0).assign(spend=1e6)
    said = pd.Series(estimator.predict(90, both).score, index=both.index)
    for frame in (one, other):
        mine = (both["as_of_date"] == frame["as_of_date"][0]).to_numpy()
        alone = estimator.predict(90, frame).score
        assert said[mine].loc[frame.index].to_numpy() == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize("estimator", BTYD.values(), ids=BTYD)
def test_customers_who_sent_it_all_back_are_expected_to_spend_little(estimator):
    frame, x, *_ = a_day()
    repeat = np.flatnonzero(x > 0)[:2]
    back = frame.copy()
    before = estimator.predict(90, frame)
    back.loc[repeat, "average_order_value"] = [-40.0, 0.0]
    said = estimator.predict(90, back)
    assert (said.expected_spend[repeat] < 0.8 * before.expected_spend[repeat]).all()
    assert (said.expected_spend >= 0).all()
    others = np.delete(np.arange(len(x)), repeat)
    assert said.expected_spend[others] == pytest.approx(before.expected_spend[others], rel=0.05)


@pytest.mark.parametrize("estimator", BTYD.values(), ids=BTYD)
def test_a_shop_without_repeat_orders_is_refused(estimator):
    frame, x, *_ = a_day()
    with pytest.raises(ValueError, match="second day"):
        estimator.predict(90, frame[x == 0])
