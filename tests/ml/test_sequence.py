from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit

from ml import sequence
from ml.sequence import (
    ENCODERS,
    SIZES,
    TASKS,
    WAITS,
    Answers,
    Backbone,
    Config,
    CustomerValue,
    NextEvent,
    hashed,
    scaled,
    value_losses,
    ziln_log_mean,
    ziln_loss,
)
from ml.streams import Batch

TINY = Config(dim=16, layers=2, heads=2, category_buckets=32, product_buckets=32)


def batch_of(lengths, width=None, seed=0):
    """Made-up events; wider than the longest customer there is junk where nobody should look."""
    rng = np.random.default_rng(seed)
    shape = len(lengths), max(width or 0, *lengths, 1)

    def whole(low, high):
        return torch.from_numpy(rng.integers(low, high, shape))

    def number(scale):
        return torch.from_numpy(rng.exponential(scale, shape).astype(np.float32))

    return Batch(
        kind=whole(1, 17), category=whole(0, 2**28), product=whole(0, 8_193), hour=whole(1, 25),
        weekday=whole(1, 8), amount=number(3), gap=number(8), has_gap=torch.ones(shape),
        age=number(4), days=number(100), length=torch.tensor(lengths),
    )  # fmt: skip


def cropped(batch, rows, width):
    return Batch(*(v[rows, :width] for v in batch[:-1]), batch.length[rows])


def network_of(config, features=3, seed=0):
    torch.manual_seed(seed)
    network = CustomerValue(config, features, (0.0, 3.0, 8.0)).eval()
    torch.nn.init.normal_(network.heads.weight)
    return network


@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_never_changes_the_prediction(encoder):
    network = network_of(replace(TINY, encoder=encoder))
    lengths = [0, 1, 3, 9]
    batch, features = batch_of(lengths, width=30), torch.randn(4, 3)
    padded = network(batch, features)
    for row, length in enumerate(lengths):
        alone = network(cropped(batch, [row], max(length, 1)), features[[row]])
        for one, other in zip(alone, padded, strict=True):
            torch.testing.assert_close(one[0], other[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_event_moves_the_states_from_its_own_on_and_none_before(encoder):
    torch.manual_seed(0)
    backbone = Backbone(replace(TINY, encoder=encoder)).eval()
    batch = batch_of([9])
    before = backbone(batch)[0]
    kind = batch.kind.clone()
    kind[0, 4] = kind[0, 4] % 16 + 1
    after = backbone(batch._replace(kind=kind))[0]
    moved = (before - after).abs().amax(dim=-1) > 1e-6
    assert moved[:5].sum() == 0  # the start and four events
    assert moved[5]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_state_of_every_event_and_one_before_the_first(encoder):
    assert Backbone(replace(TINY, encoder=encoder))(batch_of([5, 2])).shape == (2, 6, 16)


def test_attention_turns_with_the_days_between_events_and_not_with_the_calendar():
    torch.manual_seed(0)
    backbone = Backbone(TINY).eval()
    events, days = torch.randn(1, 6, 16), torch.tensor([[50.0, 40, 30, 9, 2, 1]])
    states = backbone.encode(events, days)
    torch.testing.assert_close(backbone.encode(events, days + 64), states, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(backbone.encode(events, days * 3), states, atol=1e-3)


def test_what_is_known_of_one_without_events_is_the_start():
    network = network_of(TINY, features=0)
    nothing = torch.empty(2, 0)
    one, other = network(batch_of([0, 0], width=4), nothing), network(batch_of([0, 7]), nothing)
    torch.testing.assert_close(one.embedding[0], one.embedding[1])
    torch.testing.assert_close(one.embedding[0], other.embedding[0])
    assert not torch.allclose(one.embedding[1], other.embedding[1], atol=1e-3)


def test_no_code_is_unknown_and_none_falls_where_padding_is():
    codes = torch.from_numpy(np.random.default_rng(0).integers(1, 2**28 + 1, 50_000))
    places = hashed(codes, 1024)
    counts = torch.bincount(places, minlength=1025)
    assert counts[0] == 0 and len(counts) == 1025
    assert counts[1:].max() < 3 * counts[1:].min().clamp(min=20)
    assert hashed(torch.tensor([0, 2**28]), 3).tolist()[0] == 0
    assert len(set(hashed(torch.arange(1, 200), 8192).tolist())) == 199


def test_zero_inflated_lognormal_loss_is_minus_the_log_likelihood():
    rng = np.random.default_rng(0)
    log_odds, mu, sigma = rng.normal(0, 2, 50), rng.normal(3, 1, 50), rng.uniform(0.2, 2, 50)
    spend = np.where(rng.random(50) < 0.5, rng.lognormal(3, 1, 50), 0.0)
    spend[0] = -12.5  # sent back more than was bought
    lognormal = stats.lognorm.logpdf(np.where(spend > 0, spend, 1), s=sigma, scale=np.exp(mu))
    chance = expit(log_odds)
    by_hand = -np.where(spend > 0, np.log(chance) + lognormal, np.log1p(-chance))
    ours = ziln_loss(*(torch.from_numpy(a) for a in (log_odds, mu, sigma, spend)))
    np.testing.assert_allclose(ours.numpy(), by_hand, rtol=1e-6)


def test_the_expected_spend_is_the_mean_of_many_draws():
    rng = np.random.default_rng(0)
    draws = (rng.random(400_000) < 0.3) * rng.lognormal(2.0, 0.7, 400_000)
    given = (torch.tensor(v, dtype=torch.float64) for v in (np.log(0.3 / 0.7), 2.0, 0.7))
    assert float(ziln_log_mean(*given).exp()) == pytest.approx(draws.mean(), rel=0.01)


def test_losses_and_gradients_are_finite_at_the_ends_of_spend():
    raw = torch.tensor([[80.0, 9, 3], [-80.0, -4, 0.1], [0.0, 2, 1]], requires_grad=True)
    loss = ziln_loss(raw[:, 0], raw[:, 1], raw[:, 2], torch.tensor([0.0, 1e9, 1e-6]))
    loss.sum().backward()
    assert loss.isfinite().all() and raw.grad.isfinite().all()


def test_nobody_is_expected_to_spend_more_than_anybody_has():
    network = network_of(TINY)
    torch.nn.init.normal_(network.heads.weight, std=1e3)
    answers = network(batch_of([5] * 50), torch.randn(50, 3))
    expected = network.log_expected(answers)
    assert answers.mu.min() >= 0 and answers.mu.max() <= 8
    assert expected.isfinite().all()
    assert expected.max() <= 8


def test_static_features_are_logarithms_of_known_scale_and_flags_of_nulls():
    features = torch.tensor([[np.e - 1, np.nan], [-1e30, 0.0], [np.inf, 3.0]], dtype=torch.float32)
    found = scaled(features, torch.tensor([0.5, 0.0]), torch.tensor([0.5, 1.0]))
    expected = [[1, 0, 0, 1], [-5, 0, 0, 0], [0, np.log(4), 1, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_what_nobody_knows_counts_nowhere():
    torch.manual_seed(0)
    odds = torch.randn(4, 8)
    spends, mu, sigma, purchase, high_value = odds[:, :5].T
    answers = Answers(spends, mu, sigma.exp(), purchase, high_value, odds[:, 5:], odds)
    targets = torch.full((4, len(TASKS)), torch.nan)
    targets[1, 3] = 1.0
    sums, counts = value_losses(answers, targets)
    assert counts.tolist() == [0, 0, 0, 1, 0, 0]
    assert sums.tolist() == pytest.approx([0, 0, 0, np.log1p(np.exp(-float(odds[1, 5]))), 0, 0])


@torch.no_grad()
def test_next_event_losses_are_those_of_each_next_event_alone():
    torch.manual_seed(0)
    network = NextEvent(TINY).eval()
    batch = batch_of([4, 0, 2], width=7)
    batch.amount[0, 1] = 0.0
    batch.has_gap[0, 0] = 0.0
    sums, counts = network(batch)
    states = network.backbone(batch)
    by_hand = np.zeros(4)
    for row, length in enumerate(batch.length):
        for i in range(length):
            state = states[row, i]
            wait = int(np.searchsorted(np.log1p(WAITS), float(batch.gap[row, i]), side="right"))
            kind = network.kind(state).log_softmax(-1)[batch.kind[row, i]]
            category = network.category(state).log_softmax(-1)[hashed(batch.category[row, i], 32)]
            off = abs(float(network.amount(state)[0] - batch.amount[row, i]))
            huber = off - 0.5 if off > 1 else off**2 / 2
            waited = network.wait(state).log_softmax(-1)[wait]
            by_hand += [
                -float(kind),
                -float(category),
                huber * float(batch.amount[row, i] != 0),
                -float(waited) * float(batch.has_gap[row, i]),
            ]
    assert counts.tolist() == [6, 6, 5, 5]
    np.testing.assert_allclose(sums, by_hand, rtol=1e-4)


def test_events_are_blanked_while_learning_and_never_in_a_prediction():
    torch.manual_seed(0)
    backbone = Backbone(replace(TINY, dropout=0.0, blank_share=0.5))
    batch = batch_of([8])
    assert not torch.allclose(backbone(batch), backbone(batch))
    backbone.eval()
    torch.testing.assert_close(backbone(batch), backbone(batch))


def test_sizes_are_for_a_cpu_and_up_to_tens_of_millions_of_parameters():
    with torch.device("meta"):
        sizes = {
            name: sum(p.numel() for p in CustomerValue(config, 130, (0.0, 1.0, 2.0)).parameters())
            for name, config in SIZES.items()
        }
    assert sizes["small"] < 500_000 < sizes["base"] < 20_000_000 < sizes["large"] < 100_000_000
    assert sequence.SIZES["small"] == Config()


@pytest.mark.parametrize(("wrong", "words"), [({"encoder": "lstm"}, "gru"), ({"dim": 30}, "heads")])
def test_a_network_that_cannot_be_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Config(**wrong)
