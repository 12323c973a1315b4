import pytest

from simulator import reviews
from simulator.products import CATEGORIES


def test_the_text_agrees_with_the_rating_and_the_product(tables):
    written = tables.execute(
        "select distinct rating, category, body from reviews join products using (product_id)"
    ).fetchall()
    assert len(written) > 200
    for rating, category, body in written:
        assert body in reviews.texts(int(rating), category)


PRAISE = ("recommended", "love", "perfect", "excellent", "wonderful", "happy", "solid", "best",
          "outstanding", "well made", "above average", "nice", "order more")  # fmt: skip
BLAME = ("terrible", "waste", "disappoint", "awful", "poor", "cheap", "broke", "nothing", "never",
         "not good", "money back", "send it back", "expected better")  # fmt: skip


def test_good_ratings_blame_nothing_and_bad_ones_praise_nothing(tables):
    for rating, body in tables.execute("select distinct rating, body from reviews").fetchall():
        praises = any(word in body.lower() for word in PRAISE)
        blames = any(word in body.lower() for word in BLAME)
        assert (praises, blames) == (rating > 3, rating < 3), body


def test_no_text_belongs_to_two_ratings():
    known = [
        text for stars in range(1, 6) for name in CATEGORIES for text in reviews.texts(stars, name)
    ]
    assert len(set(known)) == len(known)


def test_ratings_are_one_to_five_and_mostly_good(tables):
    ratings = dict(tables.execute("select rating, count(*) from reviews group by 1").fetchall())
    assert set(ratings) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert ratings[4.0] + ratings[5.0] > ratings[1.0] + ratings[2.0] + ratings[3.0]


def test_only_what_was_bought_is_reviewed_and_only_afterwards(tables):
    reviewed, bought = tables.execute(
        "select count(*), count(*) filter (exists (select 1 from order_lines "
        "where order_lines.customer_id = reviews.customer_id and quantity > 0 "
        "and order_lines.product_id = reviews.product_id and ordered_at < reviewed_at)) "
        "from reviews"
    ).fetchall()[0]
    assert reviewed == bought > 1_000


@pytest.mark.parametrize(
    "unhappy",
    ["exists (select 1 from order_lines where quantity < 0 "
     "and order_lines.customer_id = reviews.customer_id "
     "and order_lines.product_id = reviews.product_id)",
     "dropped_out_at < reviewed_at + interval 9 days"],
)  # fmt: skip
def test_who_sends_back_or_leaves_soon_is_less_content(tables, unhappy):
    content, discontent = tables.execute(
        f"select avg(rating) filter (not ({unhappy})), avg(rating) filter ({unhappy}) "
        "from reviews join truth using (customer_id)"
    ).fetchall()[0]
    assert discontent < content - 0.3
