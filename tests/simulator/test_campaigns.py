from dataclasses import replace

import numpy as np
import pytest

from simulator import campaigns, customers, products, seasons

ANSWERS = """
    select
        truth_contacts.*,
        exists (
            select 1 from order_lines
            where order_lines.customer_id = campaign_contacts.customer_id and quantity > 0
            and ordered_at >= contacted_at and ordered_at < contacted_at + interval 14 days
        ) as ordered
    from truth_contacts
    join campaign_contacts using (contact_id)
"""


@pytest.fixture(scope="module")
def answers(tables):
    return tables.execute(ANSWERS).df()


def _standard_error(group) -> float:
    return float(np.sqrt(group.var() / len(group)))


@pytest.mark.parametrize("arm", ["control", "treatment"])
@pytest.mark.parametrize("response", ["persuadable", "sure_thing", "lost_cause", "sleeping_dog"])
def test_as_many_order_as_the_true_probability_says(answers, response, arm):
    group = answers[(answers["response_type"] == response) & (answers["treatment_arm"] == arm)]
    away = (group["ordered"] - group[f"order_probability_{arm}"]).astype(float)
    assert len(group) > 500
    assert abs(away.mean()) < 4 * _standard_error(away)


def test_offers_help_with_persuadables_wake_sleeping_dogs_and_leave_the_others(answers):
    def lift(response: str) -> tuple[float, float]:
        group = answers[answers["response_type"] == response]
        treated = group.loc[group["treatment_arm"] == "treatment", "ordered"].astype(float)
        control = group.loc[group["treatment_arm"] == "control", "ordered"].astype(float)
        error = np.hypot(_standard_error(treated), _standard_error(control))
        return treated.mean() - control.mean(), error

    found, error = lift("persuadable")
    assert found > 4 * error
    found, error = lift("sleeping_dog")
    assert found < -2 * error
    for response in ("sure_thing", "lost_cause"):
        found, error = lift(response)
        assert abs(found) < 4 * error


def test_the_true_uplift_has_the_sign_of_its_response_type(answers):
    sign = answers.groupby("response_type")["uplift"].agg(["min", "max"])
    assert sign.loc["persuadable", "min"] >= 0 < sign.loc["persuadable", "max"]
    assert sign.loc["sleeping_dog", "max"] <= 0 > sign.loc["sleeping_dog", "min"]
    assert (sign.loc[["sure_thing", "lost_cause"]] == 0).all(axis=None)


def test_sure_things_order_more_than_lost_causes_without_any_offer(answers):
    control = (
        answers[answers["treatment_arm"] == "control"].groupby("response_type")["ordered"].mean()
    )
    assert control["sure_thing"] > 2 * control["lost_cause"]


def test_arms_are_tossed_for_whoever_the_customer_is(answers):
    treated = answers["treatment_arm"] == "treatment"
    for _, share in treated.groupby(answers["response_type"]):
        assert abs(share.mean() - 0.5) < 4 * np.sqrt(0.25 / len(share))


def test_customers_open_click_and_redeem_in_this_order_and_only_when_treated(tables):
    redeemed, clicked, wrong = tables.execute(
        "select count(redeemed_at), count(clicked_at), count(*) filter ("
        "(treatment_arm = 'control' and coalesce(opened_at, clicked_at, redeemed_at) is not null) "
        "or (redeemed_at is not null and clicked_at is null) "
        "or (clicked_at is not null and opened_at is null) "
        "or not coalesce(contacted_at <= opened_at, true) "
        "or not coalesce(opened_at <= clicked_at, true) "
        "or not coalesce(clicked_at <= redeemed_at, true)) from campaign_contacts"
    ).fetchall()[0]
    assert wrong == 0
    assert clicked > redeemed > 100


def test_every_redemption_is_an_order_with_the_offer_s_discount(tables):
    redeemed, orders = tables.execute(
        "with bought as (select customer_id, ordered_at, "
        "min(discount_amount / (quantity * unit_price)) as off from order_lines "
        "where quantity > 0 group by 1, 2) "
        "select count(*), count(*) filter (off >= "
        "cast(regexp_extract(offer, '\\d+') as integer) / 100 - 0.02) "
        "from campaign_contacts join campaigns using (campaign_id) "
        "left join bought on bought.customer_id = campaign_contacts.customer_id "
        "and bought.ordered_at = redeemed_at where redeemed_at is not null"
    ).fetchall()[0]
    assert redeemed == orders > 100


def test_the_first_order_after_a_contact_redeems_it(tables):
    earlier = tables.execute(
        "select count(*) from campaign_contacts join order_lines using (customer_id) "
        "where quantity > 0 and ordered_at >= contacted_at and ordered_at < redeemed_at"
    ).fetchall()
    assert earlier == [(0,)]


def test_who_leaves_within_the_window_answers_as_seldom_as_the_truth_says():
    """Customers who never order by themselves and leave on the third day after the contact."""
    rng = np.random.default_rng(0)
    clock = seasons.clock(60)
    drawn = customers.draw(rng, 40_000, 1, clock, products.catalogue(rng), ("EUR",))
    leaving = replace(
        drawn,
        signed_up=np.zeros_like(drawn.signed_up),
        rate=np.zeros_like(drawn.rate),
        response=np.full_like(drawn.response, customers.PERSUADABLE),
        dropped_out=np.full_like(drawn.dropped_out, (campaigns.FIRST_DAY + 3) * seasons.DAY),
    )
    contacts = campaigns.contact(rng, leaving, clock)
    owner, _ = campaigns.extra_orders(rng, contacts, leaving, clock)
    truth = campaigns.truth(contacts, leaving, clock, part=1).to_pandas()
    chance = truth.loc[contacts.treated, "order_probability_treatment"]
    assert chance.sum() > 100
    assert abs(len(owner) - chance.sum()) < 4 * np.sqrt((chance * (1 - chance)).sum())
    assert (truth["order_probability_control"] == 0).all()


@pytest.mark.parametrize("days", [1, 28, 29, 57, 730])
def test_every_window_closes_before_the_next_campaign_and_before_the_end(days):
    starts = campaigns.FIRST_DAY + campaigns.EVERY_DAYS * np.arange(campaigns.count(days))
    window = campaigns.WINDOW // 86_400 + 1  # contacted on the morning of the first day
    assert window <= campaigns.EVERY_DAYS
    assert (starts + window <= days).all()
    assert campaigns.table(days).num_rows == len(starts)
    assert bool(len(starts)) == (days >= 29)
