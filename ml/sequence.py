"""A network that reads a customer's events, on one page: config, encoders, heads, losses.

    events -> EventEmbedding -> encoder -> states (one per event, and one before the first)
    states -> NextEvent: what comes next, which needs no labels
    states, static features -> CustomerValue: what the customer is worth over the horizon

All encoders are causal and padding stands on the right, so no state can see it, and no mask is
needed in attention. What is left of it is masked where states are averaged.

Shapes: b customers, l events of the longest of them, d = Config.dim. l + 1 states: the first is the
learned start of every customer, and all that is known of one without events.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ml.streams import Batch

KINDS = 17  # 16 and padding
INTENT_DAYS = (7, 14, 30)
TASKS = ("spend", "is_purchased", "is_high_value", *(f"is_purchased_{n}d" for n in INTENT_DAYS))
NEXT_EVENT = ("kind", "category", "amount", "wait")
MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
WAITS = (
    *(1.0, MINUTE, 10 * MINUTE, HOUR, 6 * HOUR),
    *(n * DAY for n in (1, 2, 4, 7, 14, 28, 56, 112, 224, 365)),
)  # seconds; what lies between two of them is one class
WAVES = 4
SMALLEST_SIGMA, LARGEST_SIGMA = 0.1, 2.5


@dataclass(frozen=True)
class Config:
    """The network's shape. encoder: one of ENCODERS; the sizes are those of `SIZES`.

    max_events: the newest that are read. 128 hold all that most shops know of most customers, and
    time on a CPU grows with them: 512 take at least four times as long for whoever has as many.
    blank_share: of the events that are blanked out while learning, so that blank is something the
    network knows when reasons compare with it.
    """

    encoder: str = "transformer"
    dim: int = 64
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    blank_share: float = 0.1
    max_events: int = 128
    category_buckets: int = 1024
    product_buckets: int = 1024

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, not {self.encoder}")
        if self.dim % (4 * self.heads):
            raise ValueError(
                f"dim must be a multiple of 4 x heads, which {self.dim} is not of {4 * self.heads}"
            )


class EventEmbedding(nn.Module):
    """What each event is, as a vector: (b, l, d). Codes are hashed, so no code is unknown."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        sizes = (KINDS, config.category_buckets + 1, config.product_buckets + 1, 25, 8)
        self.codes = nn.ModuleList(nn.Embedding(size, config.dim) for size in sizes)
        for table in self.codes:
            nn.init.normal_(table.weight, std=0.1)  # pyright: ignore[reportArgumentType]
        self.numbers = nn.Linear(4 + 2 * 2 * WAVES, config.dim)
        self.norm = nn.LayerNorm(config.dim)
        self.buckets = (config.category_buckets, config.product_buckets)

    def forward(self, batch: Batch) -> Tensor:
        category = hashed(batch.category, self.buckets[0])
        product = hashed(batch.product, self.buckets[1])
        codes = (batch.kind, category, product, batch.hour, batch.weekday)
        times = torch.stack([batch.gap, batch.age], dim=-1)
        octaves = torch.pi / 16 * 2 ** torch.arange(WAVES, device=times.device)
        waves = (times.unsqueeze(-1) * octaves).flatten(-2)  # (b, l, 2 x WAVES)
        plain = torch.stack([batch.amount, batch.gap, batch.age], dim=-1) / 5
        numbers = torch.cat([plain, batch.has_gap[..., None], waves.sin(), waves.cos()], dim=-1)
        found = self.numbers(numbers)
        for table, code in zip(self.codes, codes, strict=True):
            found = found + table(code)
        return self.norm(found)


def hashed(codes: Tensor, buckets: int) -> Tensor:
    """0 for 0, else one of 1 ... buckets: multiplicative hashing (Knuth, TAOCP 3, 6.4)."""
    mixed = (codes * 0x9E3779B1) & 0xFFFFFFFF
    return torch.where(codes == 0, 0, 1 + ((mixed * buckets) >> 32))


class Transformer(nn.Module):
    """Pre-norm blocks (Xiong et al. 2020) of causal attention with rotary positions (Su et al.
    2021): half of each head turns with the place in the stream, half with the days between events,
    from a week to ten years."""

    of_place: Tensor
    of_days: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.layers))
        half = config.dim // config.heads // 4
        fraction = torch.arange(half) / half
        self.register_buffer("of_place", 10_000**-fraction, persistent=False)
        self.register_buffer("of_days", 2 * torch.pi * 4_000 ** (fraction - 1), persistent=False)

    def forward(self, x: Tensor, days: Tensor) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device, dtype=days.dtype).expand_as(days)
        angles = torch.cat([place[..., None] * self.of_place, days[..., None] * self.of_days], -1)
        turn = angles.cos()[:, None], angles.sin()[:, None]  # (b, 1, l + 1, d / heads / 2)
        for block in self.blocks:
            x = block(x, turn)
        return x


class TransformerBlock(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.dim
        self.heads = config.heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.ReLU(), nn.Linear(4 * d, d))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        b, length, d = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(b, length, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (b, heads, l, d / heads)
        q, k = rotated(q, *turn).to(v.dtype), rotated(k, *turn).to(v.dtype)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.out(attended.transpose(1, 2).reshape(b, length, d)))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (..., k) with its pairs (i, i + k / 2) turned by k / 2 angles."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class GRU(nn.Module):
    """Cho et al. 2014. Time reaches it through the embedding alone."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dropout = config.dropout if config.layers > 1 else 0.0
        self.gru = nn.GRU(config.dim, config.dim, config.layers, batch_first=True, dropout=dropout)

    def forward(self, x: Tensor, days: Tensor) -> Tensor:
        return x + self.gru(x)[0]


class CNN(nn.Module):
    """Causal convolutions of width 3 that see twice as far in each layer (Bai et al. 2018)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d, places = config.dim, range(config.layers)
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in places)
        self.convolutions = nn.ModuleList(nn.Conv1d(d, d, 3, dilation=2**i) for i in places)
        self.outs = nn.ModuleList(nn.Linear(d, d) for _ in places)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, days: Tensor) -> Tensor:
        layers = zip(self.norms, self.convolutions, self.outs, strict=True)
        for i, (norm, convolution, out) in enumerate(layers):
            before = F.pad(norm(x).transpose(1, 2), (2 * 2**i, 0))
            x = x + self.dropout(out(F.gelu(convolution(before).transpose(1, 2))))
        return x


ENCODERS = {"transformer": Transformer, "gru": GRU, "cnn": CNN}
SIZES = {
    "small": Config(),  # 0.3 million parameters: a CPU
    "base": Config(dim=256, layers=6, heads=8, max_events=512, product_buckets=8192),
    "large": Config(dim=512, layers=12, heads=8, max_events=512, product_buckets=8192),  # a GPU
}


class Backbone(nn.Module):
    """Events to states. What pre-training and fine-tuning share."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = EventEmbedding(config)
        self.start = nn.Parameter(torch.randn(config.dim))
        self.blank = nn.Parameter(torch.randn(config.dim))
        self.encoder = ENCODERS[config.encoder](config)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, batch: Batch) -> Tensor:
        """(b, l + 1, d)"""
        events = self.embedding(batch)
        if self.training:
            chance = torch.rand(events.shape[:2], device=events.device)
            is_blank = chance < self.config.blank_share
            events = torch.where(is_blank[..., None], self.blank.to(events.dtype), events)
        return self.encode(events, batch.days)

    def encode(self, events: Tensor, days: Tensor) -> Tensor:
        """States of embedded events (b, l, d) and their days before the cutoff (b, l)."""
        start = self.start.to(events.dtype).expand(events.shape[0], 1, -1)
        days = torch.cat([days[:, :1], days], dim=1)
        return self.norm(self.encoder(torch.cat([start, events], dim=1), days))


def pooled(states: Tensor, length: Tensor) -> Tensor:
    """(b, 2 d): the state after the last event beside the mean of all that are no padding."""
    rows = torch.arange(states.shape[0], device=states.device)
    real = torch.arange(states.shape[1], device=states.device) <= length[:, None]
    mean = (states * real[..., None]).sum(dim=1) / (length + 1)[:, None]
    return torch.cat([states[rows, length], mean], dim=-1)


class NextEvent(nn.Module):
    """What comes after each state: its kind, category and amount, and how long it is waited for.

    Radford et al. 2018 for the training; waits are classes because they have two humps, the next
    line of a basket and the next visit.
    """

    waits: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.backbone = Backbone(config)
        self.kind = nn.Linear(config.dim, KINDS)
        self.category = nn.Linear(config.dim, config.category_buckets + 1)
        self.amount = nn.Linear(config.dim, 1)
        self.wait = nn.Linear(config.dim, len(WAITS) + 1)
        self.register_buffer("waits", torch.tensor(WAITS).log1p(), persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums of the losses of NEXT_EVENT (4,), and of how many events (4,)."""
        states = self.backbone(batch)[:, :-1]
        real = torch.arange(states.shape[1], device=states.device) < batch.length[:, None]
        states = states[real]  # (events, d)
        kind, amount, gap = (values[real] for values in (batch.kind, batch.amount, batch.gap))
        category = hashed(batch.category[real], self.backbone.config.category_buckets)
        wait = torch.bucketize(gap, self.waits, right=True)
        losses = (
            F.cross_entropy(self.kind(states).float(), kind, reduction="none"),
            F.cross_entropy(self.category(states).float(), category, reduction="none"),
            F.smooth_l1_loss(self.amount(states).float()[:, 0], amount, reduction="none"),
            F.cross_entropy(self.wait(states).float(), wait, reduction="none"),
        )
        every = torch.ones_like(gap)
        asked = (every, every, (amount != 0).float(), batch.has_gap[real])
        sums = [(loss * where).sum() for loss, where in zip(losses, asked, strict=True)]
        return torch.stack(sums), torch.stack([where.sum() for where in asked])


class Answers(NamedTuple):
    """What the network says of b customers, each (b,) but intent (b, 3); all but mu, sigma and
    embedding (b, d) are log-odds. spends, mu, sigma: of the zero-inflated lognormal."""

    spends: Tensor
    mu: Tensor
    sigma: Tensor
    purchase: Tensor
    high_value: Tensor
    intent: Tensor
    embedding: Tensor


class CustomerValue(nn.Module):
    """Spend, purchases and high value over the horizon, from events and static features.

    features: how many static columns, 0 for none. log_spend: lowest, mean and highest logarithm of
    what a buyer spends in the training rows. mu stays between the ends, and expected spend below
    the highest, so no exponential runs away.
    """

    feature_mean: Tensor
    feature_scale: Tensor
    mu_range: Tensor
    largest: Tensor

    def __init__(
        self, config: Config, features: int, log_spend: tuple[float, float, float]
    ) -> None:
        super().__init__()
        d = config.dim
        self.backbone = Backbone(config)
        self.static = None
        if features:
            self.static = nn.Sequential(
                nn.Linear(2 * features, d), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(d, d)
            )
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_scale", torch.ones(features))
        lowest, mean, highest = log_spend
        low, high = min(lowest, mean - 1), max(highest, mean + 1)
        self.register_buffer("mu_range", torch.tensor([low, high]))
        self.register_buffer("largest", torch.tensor(highest))
        self.pool = nn.Sequential(nn.Linear(2 * d, d), nn.GELU())
        self.fuse = nn.Sequential(
            nn.LayerNorm(2 * d if features else d),
            nn.Linear(2 * d if features else d, d),
            nn.GELU(),
            nn.Dropout(config.dropout),
        )
        self.heads = nn.Linear(d, 5 + len(INTENT_DAYS))
        nn.init.normal_(self.heads.weight, std=0.02)
        nn.init.zeros_(self.heads.bias)
        with torch.no_grad():
            self.heads.bias[1] = torch.logit(torch.tensor((mean - low) / (high - low)))

    def forward(self, batch: Batch, features: Tensor) -> Answers:
        """features: (b, features) as they come, NaN where null; (b, 0) without any."""
        return self.answer(self.backbone(batch), batch.length, features)

    def log_expected(self, answers: "Answers") -> Tensor:
        """(b,) logarithm of expected spend, at most that of the highest spend there was."""
        mean = ziln_log_mean(answers.spends, answers.mu, answers.sigma)
        return mean.minimum(self.largest)

    def answer(self, states: Tensor, length: Tensor, features: Tensor) -> Answers:
        embedding = self.pool(pooled(states, length))
        if self.static is not None:
            static = self.static(scaled(features, self.feature_mean, self.feature_scale))
            embedding = torch.cat([embedding, static], dim=-1)
        embedding = self.fuse(embedding)
        raw = self.heads(embedding).float()
        low, high = self.mu_range
        return Answers(
            spends=raw[:, 0],
            mu=low + (high - low) * raw[:, 1].sigmoid(),
            sigma=SMALLEST_SIGMA + (LARGEST_SIGMA - SMALLEST_SIGMA) * raw[:, 2].sigmoid(),
            purchase=raw[:, 3],
            high_value=raw[:, 4],
            intent=raw[:, 5:],
            embedding=embedding.float(),
        )


def signed_log(values: Tensor) -> Tensor:
    return values.sign() * values.abs().log1p()


def scaled(features: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """(b, 2 f): signed logarithms by their mean and deviation, at most 5 of them away, 0 where
    null; then 1 where null."""
    is_null = ~features.isfinite()
    values = ((signed_log(features) - mean) / scale).clamp(-5, 5)
    return torch.cat([values.masked_fill(is_null, 0.0), is_null.to(values.dtype)], dim=-1).float()


def ziln_loss(spends: Tensor, mu: Tensor, sigma: Tensor, spend: Tensor) -> Tensor:
    """(b,) minus the log-likelihood of spend (b,) under the zero-inflated lognormal.

    Wang, Liu & Miao (2019), "A deep probabilistic model for customer lifetime value prediction".
    spends: (b,) log-odds of spending anything; who spends less than nothing counts as spending 0.
    """
    has_spent = spend > 0
    amount = spend.clamp(min=0).where(has_spent, torch.ones_like(spend)).log()
    lognormal = (
        amount + sigma.log() + 0.5 * torch.log(torch.tensor(2 * torch.pi))
        + 0.5 * ((amount - mu) / sigma) ** 2
    )  # fmt: skip
    zero = F.binary_cross_entropy_with_logits(spends, has_spent.to(spends.dtype), reduction="none")
    return zero + lognormal.where(has_spent, torch.zeros_like(lognormal))


def ziln_log_mean(spends: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """(b,) logarithm of the expected spend."""
    return F.logsigmoid(spends) + mu + sigma**2 / 2


def value_losses(answers: Answers, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the losses of TASKS (6,), and of how many customers (6,).

    targets: (b, 6) in the order of TASKS, NaN where nobody knows: it counts nowhere.
    """
    is_known = targets.isfinite()
    targets = targets.nan_to_num()
    log_odds = torch.cat(
        [answers.purchase[:, None], answers.high_value[:, None], answers.intent], dim=1
    )
    spend = ziln_loss(answers.spends, answers.mu, answers.sigma, targets[:, 0])
    others = F.binary_cross_entropy_with_logits(log_odds, targets[:, 1:], reduction="none")
    losses = torch.cat([spend[:, None], others], dim=1)
    return (losses * is_known).sum(dim=0), is_known.sum(dim=0).float()
