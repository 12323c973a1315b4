from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import btyd, cutoffs, sufficiency
from ml.sufficiency import Rung, assess, predict_with, to_markdown, to_text

AS_OF = date(2026, 1, 1)
HORIZON_DAYS = 90


def customers(count=600, history_days=400, come_back=True, seed=0):
    """Features of AS_OF. Customers order at rates of their own until they stop for good."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        tenure = int(rng.integers(1, history_days + 1))
        rate, stop = rng.gamma(1, 1 / 30), rng.beta(1, 3)
        days, at = [0], 0.0
        while (
            come_back and rng.random() >= stop and (at := at + rng.exponential(1 / rate)) < tenure
        ):
            days.append(int(at))
        days = np.unique(days)
        amounts = rng.gamma(6, rng.uniform(2, 6), days.size)
        rows.append(
            {
                "customer_id": f"c{i:04}",
                "tenure_days": tenure,
                "recency_days": tenure - days[-1],
                "frequency_orders": days.size,
                "monetary_total": amounts.sum(),
                "average_order_value": amounts.mean(),
                "first_order_value": amounts[0],
                "order_gap_mean_days": np.diff(days).mean() if days.size > 1 else np.nan,
            }
        )
    frame = pd.DataFrame(rows).assign(as_of_date=pd.Timestamp(AS_OF))
    return frame.assign(
        rfm_score=(frame["frequency_orders"].rank() - frame["recency_days"].rank()).round()
    )


def came_after(customers=600, buyers=200, day=AS_OF - timedelta(days=HORIZON_DAYS), spend=20.0):
    bought = np.arange(customers) < buyers
    return pd.DataFrame(
        {
            "customer_id": [f"c{i:04}" for i in range(customers)],
            "as_of_date": pd.Timestamp(day),
            "horizon_days": HORIZON_DAYS,
            "spend": np.where(bought, spend, 0.0),
            "is_purchased": bought,
        }
    )


def report_of(frame=None, labels=None, history_days=400, horizon_days=HORIZON_DAYS):
    frame = SHOP if frame is None else frame
    labels = came_after() if labels is None else labels
    return assess(frame, labels, AS_OF, AS_OF - timedelta(days=history_days), horizon_days)


SHOP = customers()


def test_a_shop_that_meets_every_need_gets_a_model():
    report = report_of()
    assert report.rung == Rung.lightgbm_hurdle
    assert (report.customers, report.window_customers, report.buyers) == (600, 600, 200)
    assert report.repeaters == (SHOP["frequency_orders"] >= 2).sum()
    assert report.seasons == pytest.approx(400 / 365)
    assert report.newest_window == AS_OF - timedelta(days=HORIZON_DAYS)
    assert not report.climb


def test_one_less_than_a_model_needs_is_one_rung_down_and_says_what_is_missing():
    least = {"customers": sufficiency.MODEL_CUSTOMERS, "buyers": sufficiency.MODEL_BUYERS}
    assert report_of(labels=came_after(**least)).rung == Rung.lightgbm_hurdle
    for name, number in least.items():
        report = report_of(labels=came_after(**{**least, name: number - 1}))
        assert report.rung == Rung.mbg_nbd
        assert f"{number - 1} of {number} {name}" in report.reason
        assert report.climb.startswith("For lightgbm_hurdle: ")


@pytest.mark.parametrize("horizon_days", [30, 90, 180])
def test_a_model_is_promised_exactly_where_the_history_is_long_enough_to_judge_it(horizon_days):
    """`cutoffs` is what training asks."""
    for history_days in (*range(150, 500, 10), *range(295, 306)):
        report = report_of(
            labels=came_after(day=AS_OF - timedelta(days=horizon_days)).assign(
                horizon_days=horizon_days
            ),
            history_days=history_days,
            horizon_days=horizon_days,
        )
        try:
            cutoffs.test_origins(AS_OF, AS_OF - timedelta(days=history_days), horizon_days)
            long_enough = True
        except cutoffs.NotEnoughHistory:
            long_enough = False
        assert (report.rung == Rung.lightgbm_hurdle) == long_enough, history_days


def test_where_a_shorter_horizon_would_do_it_is_named():
    report = report_of(history_days=200)
    assert report.rung == Rung.mbg_nbd
    assert "ask for 30 days instead of 90" in report.climb
    labels = came_after(day=AS_OF - timedelta(days=30)).assign(horizon_days=30)
    assert report_of(labels=labels, history_days=200, horizon_days=30).rung == Rung.lightgbm_hurdle


def test_one_repeat_customer_or_day_less_than_mbg_nbd_needs_is_the_last_rung():
    few = came_after(customers=60, buyers=10)
    frame = SHOP.assign(frequency_orders=1)
    frame.loc[frame.index[: sufficiency.BTYD_REPEATERS], "frequency_orders"] = 2
    assert report_of(frame, few).rung == Rung.mbg_nbd
    assert report_of(frame, few, history_days=sufficiency.BTYD_DAYS).rung == Rung.mbg_nbd
    assert report_of(frame, few, history_days=sufficiency.BTYD_DAYS - 1).rung == Rung.spend_rate
    assert report_of(frame[1:], few).rung == Rung.spend_rate


def test_windows_that_are_not_closed_or_of_another_horizon_are_not_looked_at():
    late = came_after(day=AS_OF - timedelta(days=HORIZON_DAYS - 1), buyers=0)
    other = came_after(buyers=0).assign(horizon_days=30)
    older = came_after(day=AS_OF - timedelta(days=HORIZON_DAYS + 30), buyers=0)
    report = report_of(labels=pd.concat([older, came_after(), late, other]))
    assert (report.buyers, report.window_customers) == (200, 600)


def test_who_sent_everything_back_is_no_buyer_to_learn_from():
    report = report_of(labels=came_after(spend=-5.0))
    assert report.buyers == 0
    assert report.rung == Rung.mbg_nbd


# The poor cases: each is refused with a reason, or answered by a lower rung.


def test_without_repeat_customers_the_spend_so_far_answers():
    frame = customers(come_back=False)
    report = report_of(frame, came_after(buyers=0))
    assert (report.repeaters, report.rung) == (0, Rung.spend_rate)
    assert "0 of 50 customers with two orders" in report.reason
    answer = predict_with(Rung.mbg_nbd, frame, HORIZON_DAYS)
    assert answer.rung == Rung.spend_rate
    assert "second day" in answer.reason


@pytest.mark.parametrize("orders", [1, 3])
def test_one_customer_is_reported_and_answered(orders):
    frame = SHOP[SHOP["frequency_orders"] == orders].head(1)
    report = report_of(frame, came_after(customers=1, buyers=0))
    assert (report.customers, report.rung) == (1, Rung.spend_rate)
    assert not report.constant
    answer = predict_with(Rung.mbg_nbd, frame, HORIZON_DAYS)
    assert answer.rung == Rung.spend_rate
    assert answer.prediction.expected_spend.shape == (1,)
    assert 0 < answer.prediction.purchase_probability[0] < 1


def test_no_customer_is_refused():
    with pytest.raises(ValueError, match="load orders first"):
        report_of(SHOP.head(0))
    with pytest.raises(ValueError, match="load orders first"):
        predict_with(Rung.spend_rate, SHOP.head(0), HORIZON_DAYS)


def test_labels_that_are_all_zero_are_no_model_and_a_question():
    report = report_of(labels=came_after(buyers=0))
    assert (report.buyers, report.rung) == (0, Rung.mbg_nbd)
    assert any("newest delivery complete" in note for note in report.notes)


def test_features_that_are_constant_or_null_are_named_and_cost_nothing_else():
    report = report_of(SHOP.assign(sessions_30d=0.0, rating_mean=np.nan, some=[1.0] + [None] * 599))
    assert (report.constant, report.all_null) == (("sessions_30d",), ("rating_mean",))
    assert report.rung == Rung.lightgbm_hurdle
    assert "Null for every customer: rating_mean." in report.notes


def test_customers_who_are_all_alike_are_no_model():
    alike = pd.concat([SHOP.head(1)] * 600).assign(customer_id=came_after()["customer_id"].array)
    report = report_of(alike)
    assert report.rung != Rung.lightgbm_hurdle
    assert "0 of 1 features that differ between customers" in report.reason
    answer = predict_with(Rung.mbg_nbd, alike, HORIZON_DAYS)
    assert np.isfinite(answer.prediction.expected_spend).all()


def test_who_sent_back_more_than_they_bought_is_expected_to_spend_nothing():
    frame = SHOP.copy()
    frame.loc[0, ["monetary_total", "average_order_value", "first_order_value"]] = -30.0
    for rung in (Rung.mbg_nbd, Rung.spend_rate):
        answer = predict_with(rung, frame, HORIZON_DAYS)
        assert answer.rung == rung
        assert answer.prediction.expected_spend[0] >= 0
    assert answer.prediction.expected_spend[0] == 0
    all_sent_back = frame.assign(monetary_total=-1.0, average_order_value=-1.0)
    answer = predict_with(Rung.mbg_nbd, all_sent_back, HORIZON_DAYS)
    assert (answer.rung, answer.prediction.expected_spend.sum()) == (Rung.spend_rate, 0)


def test_a_horizon_longer_than_the_history_is_said_and_answered():
    frame = customers(history_days=70)
    report = assess(frame, None, AS_OF, AS_OF - timedelta(days=70), HORIZON_DAYS)
    assert (report.closed_windows, report.newest_window, report.buyers) == (0, None, 0)
    assert report.rung == Rung.mbg_nbd
    assert any("longer than the 70 days" in note for note in report.notes)
    answer = predict_with(report.rung, frame, HORIZON_DAYS)
    assert answer.rung == Rung.mbg_nbd
    last = predict_with(Rung.spend_rate, frame, HORIZON_DAYS).prediction
    assert last.expected_spend == pytest.approx(frame["monetary_total"].to_numpy())


def test_a_closed_window_without_labels_is_refused_and_not_counted_as_empty():
    with pytest.raises(ValueError, match="build that day first"):
        assess(SHOP, None, AS_OF, AS_OF - timedelta(days=400), HORIZON_DAYS)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"frame": SHOP.drop(columns="frequency_orders")}, "lacks frequency_orders"),
        ({"frame": pd.concat([SHOP, SHOP.assign(as_of_date="2025-12-31")])}, "of one day"),
        ({"history_days": 0}, "nothing is known"),
        ({"horizon_days": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_reported_on_is_refused(broken, said):
    with pytest.raises(ValueError, match=said):
        report_of(**broken)


# What the rungs below the model answer.


def test_mbg_nbd_answers_as_the_baseline_of_the_scoreboard_does():
    answer = predict_with(Rung.mbg_nbd, SHOP, HORIZON_DAYS)
    assert (answer.rung, answer.reason) == (Rung.mbg_nbd, "")
    estimator = btyd.BTYD["mbg_nbd"]
    expected = estimator.predict(estimator.fit(SHOP, SHOP, HORIZON_DAYS), SHOP)
    assert (answer.prediction.expected_spend == expected.expected_spend).all()
    assert (answer.prediction.purchase_probability == expected.purchase_probability).all()


def test_where_a_history_is_missing_the_last_rung_answers_and_says_why():
    answer = predict_with(Rung.mbg_nbd, SHOP.drop(columns="first_order_value"), HORIZON_DAYS)
    assert answer.rung == Rung.spend_rate
    assert "first_order_value" in answer.reason


def test_the_model_is_not_answered_for():
    with pytest.raises(ValueError, match="has to be trained"):
        predict_with(Rung.lightgbm_hurdle, SHOP, HORIZON_DAYS)


def test_the_last_rung_ranks_by_rfm_and_pays_by_rate():
    found = predict_with(Rung.spend_rate, SHOP, HORIZON_DAYS).prediction
    rate = SHOP["monetary_total"] / SHOP["tenure_days"].clip(lower=HORIZON_DAYS)
    assert found.expected_spend == pytest.approx((rate * HORIZON_DAYS).to_numpy())
    assert (found.ranking == SHOP["rfm_score"]).all()
    without = predict_with(Rung.spend_rate, SHOP.drop(columns="rfm_score"), HORIZON_DAYS)
    assert without.prediction.ranking is None


@settings(max_examples=100, deadline=None)
@given(
    orders=st.integers(1, 500),
    tenure=st.integers(1, 4000),
    silence=st.floats(0, 1),
    horizon=st.integers(1, 400),
)
def test_more_orders_never_lower_the_chance_and_more_silence_never_raises_it(
    orders, tenure, silence, horizon
):
    recency = round(silence * tenure)
    rows = [(orders, recency), (orders + 1, recency), (orders, min(recency + 7, tenure))]
    frame = pd.DataFrame(rows, columns=["frequency_orders", "recency_days"])
    frame = frame.assign(tenure_days=tenure, monetary_total=1.0)
    chance, more, silent = predict_with(
        Rung.spend_rate, frame, horizon
    ).prediction.purchase_probability
    assert 0 < silent <= chance <= more <= 1


def test_the_chance_by_rate_is_the_poisson_chance_of_jeffreys_rate():
    frame = SHOP.iloc[:1].assign(frequency_orders=10, tenure_days=300, recency_days=20)
    [chance] = predict_with(Rung.spend_rate, frame, HORIZON_DAYS).prediction.purchase_probability
    assert chance == pytest.approx(1 - np.exp(-9.5 / 320 * 90))


# What a person reads.


@pytest.mark.parametrize("history_days", [400, 200, 59])
def test_the_text_fits_a_terminal_and_names_the_rung_and_the_way_up(history_days):
    many = {f"a_feature_with_a_rather_long_name_{i}d": 0.0 for i in range(12)}
    few = None if history_days < 120 else came_after()
    frame = SHOP.assign(**many)
    report = assess(frame, few, AS_OF, AS_OF - timedelta(days=history_days), HORIZON_DAYS)
    said = to_text(report)
    assert max(map(len, said.splitlines())) <= 80
    assert said.startswith(report.rung)
    assert "and 7 more" in said.replace("\n", " ")
    assert (report.climb[:20] in said) and bool(report.climb) == (history_days < 400)


def test_the_note_has_every_need_with_what_is_there():
    report = report_of(history_days=200)
    note = to_markdown(report)
    assert "**mbg_nbd** over 90 days" in note
    assert "| lightgbm_hurdle | days of orders | 200 | 300 | no |" in note
    for rung, needs in report.needs.items():
        for need in needs:
            assert f"| {rung} | {need.what} | {need.there:,} | {need.wanted:,} |" in note
