"""Which events moved what a sequence model expects of a customer."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ml import sequence, streams
from ml.sequence_model import ROWS_AT_ONCE, Model, cuts_of, days_of, static_features, tensors
from ml.streams import Streams
from ml.training_loop import machine

Array = np.ndarray
Frame = pd.DataFrame

ROWS_EXPLAINED_AT_ONCE = 64
INTEGRATION_STEPS = 128
COMPLETE_TO = 0.02  # in the logarithm of expected spend: two percent
MOST = 3


class Said(NamedTuple):
    """Of one event and of n, with the amount of them all."""

    en: tuple[str, str]
    zh: str


# What a kind of event is called; features.customer_events says which number is which.
SAID: Mapping[int, Said] = {
    1: Said(("Bought 1 item for {amount}", "Bought {n} items for {amount}"),
            "购买 {n} 项商品，共 {amount}"),
    2: Said(("Returned 1 item for {amount}", "Returned {n} items for {amount}"),
            "退回 {n} 项商品，共 {amount}"),
    3: Said(("1 product view", "{n} product views"), "浏览商品 {n} 次"),
    4: Said(("1 search", "{n} searches"), "搜索 {n} 次"),
    5: Said(("Put 1 item on the wish list", "Put {n} items on the wish list"), "收藏 {n} 次"),
    6: Said(("Put 1 item into the cart", "Put {n} items into the cart"), "加入购物车 {n} 次"),
    7: Said(("Took 1 item out of the cart", "Took {n} items out of the cart"), "移出购物车 {n} 次"),
    8: Said(("1 checkout begun", "{n} checkouts begun"), "进入结账 {n} 次"),
    9: Said(("1 login", "{n} logins"), "登录 {n} 次"),
    10: Said(("Asked support once", "Asked support {n} times"), "联系客服 {n} 次"),
    11: Said(("1 review", "{n} reviews"), "评价 {n} 次"),
    12: Said(("1 negative review", "{n} negative reviews"), "差评 {n} 次"),
    13: Said(("Got 1 campaign message", "Got {n} campaign messages"), "收到营销信息 {n} 次"),
    14: Said(("Opened 1 campaign message", "Opened {n} campaign messages"), "打开营销信息 {n} 次"),
    15: Said(("Clicked in 1 campaign message", "Clicked in {n} campaign messages"),
             "点击营销信息 {n} 次"),
    16: Said(("Redeemed 1 offer", "Redeemed {n} offers"), "使用优惠 {n} 次"),
}  # fmt: skip


class Reasons(NamedTuple):
    """occasions: customer_id, as_of_date, rank (from 1, the strongest first), effect (the factor on
    expected spend, above 1 where it raises it), kind, happened_on, events (how many), amount (of
    money, absolute), text_en and text_zh. together: (n,) the factor of all events of a customer,
    in the order of the frame.
    """

    occasions: Frame
    together: Array


def attributions(
    model: Model, frame: Frame, events: Streams, steps: int = INTEGRATION_STEPS
) -> tuple[Array, Array, Array]:
    """What each event moves the logarithm of expected spend by: (n, l), 0 where padded; then that
    logarithm (n,), and the same with all events blank (n,). A row sums to the difference.

    Integrated gradients over the event embeddings (Sundararajan, Taly & Yan 2017), from the blank
    that the network learned beside the events.
    """
    from captum.attr import IntegratedGradients

    with machine(model.config) as device:
        network = model.network.to(device).eval()
        cuts = cuts_of(events, frame, model.config)
        batch = tensors(streams.read(events, cuts), device)
        features = torch.from_numpy(static_features(frame, model.features)).to(device)

        def value(embedded: Tensor, days: Tensor, length: Tensor, features: Tensor) -> Tensor:
            answers = network.answer(network.backbone.encode(embedded, days), length, features)
            return sequence.ziln_log_mean(answers.spends, answers.mu, answers.sigma)

        given = batch.days, batch.length, features
        with torch.no_grad():
            embedded = network.backbone.embedding(batch)
            blank = network.backbone.blank.detach().expand_as(embedded).contiguous()
            ends = value(embedded, *given), value(blank, *given)
        moved = IntegratedGradients(value).attribute(
            embedded,
            baselines=blank,
            additional_forward_args=given,
            n_steps=steps,
            internal_batch_size=ROWS_AT_ONCE,
        )
        by_event, at_events, at_blank = (
            found.detach().cpu().double().numpy() for found in (moved.sum(dim=-1), *ends)
        )
    return by_event, at_events, at_blank


def explain(model: Model, frame: Frame, events: Streams, most: int = MOST) -> Reasons:
    """The occasions that move each customer's expected spend most, either way, in words.

    An occasion is what a customer did of one kind on one day; an item in its text is an order line.
    Effects of its events add up, so all occasions of a customer together move expected spend by
    the factor that tells those events from blank ones. Only events known on the row's as_of_date
    are read, of them the newest max_events of the network.
    """
    cuts = cuts_of(events, frame, model.config)
    first = np.cumsum(cuts.lengths) - cuts.lengths
    row = np.repeat(np.arange(len(frame)), cuts.lengths)
    place = np.arange(row.size) - first[row] + cuts.start[row]
    moved, together = np.zeros(row.size), np.zeros(len(frame))
    for rows in streams.batches_by_length(cuts.lengths, ROWS_EXPLAINED_AT_ONCE):
        by_event, together[rows] = _complete(model, frame.iloc[rows], events)
        steps = np.arange(by_event.shape[1])
        real = steps < cuts.lengths[rows][:, None]
        moved[(first[rows][:, None] + steps)[real]] = by_event[real]
    happened = pd.DataFrame({
        "row": row,
        "kind": events.kind[place],
        "day": events.occurred_at[place] // streams.SECONDS_PER_DAY,
        "amount": np.expm1(np.abs(np.nan_to_num(events.log_amount[place], posinf=0, neginf=0))),
        "events": 1,
        "effect": moved,
    })  # fmt: skip
    occasions = happened.groupby(["row", "day", "kind"], sort=False, as_index=False).sum()
    occasions["strength"] = occasions["effect"].abs()
    order = ["row", "strength", "day", "kind"]
    occasions = occasions.sort_values(order, ascending=[True, False, False, True], kind="stable")
    occasions["rank"] = occasions.groupby("row").cumcount() + 1
    occasions = occasions[occasions["rank"] <= most].reset_index(drop=True)
    row = occasions.pop("row").to_numpy()
    asked = frame[["customer_id", "as_of_date"]].reset_index(drop=True)
    occasions[["customer_id", "as_of_date"]] = asked.iloc[row].reset_index(drop=True)
    ago = days_of(frame)[row] - occasions["day"]
    occasions["happened_on"] = pd.to_datetime(occasions["day"], unit="D")
    told = list(zip(occasions["kind"], occasions["events"], occasions["amount"], ago, strict=True))
    for language, say in (("en", _in_english), ("zh", _in_chinese)):
        occasions[f"text_{language}"] = [say(*values) for values in told]
    occasions["effect"] = np.exp(occasions["effect"])
    columns = ["customer_id", "as_of_date", "rank", "effect", "kind", "happened_on", "events",
               "amount", "text_en", "text_zh"]  # fmt: skip
    return Reasons(occasions[columns], np.exp(together))


def _complete(model: Model, frame: Frame, events: Streams) -> tuple[Array, Array]:
    """What each event moves the logarithm of expected spend by (n, l), and what all of a row do
    together (n,); where they do not sum to it, in smaller steps."""
    by_event, at_events, at_blank = attributions(model, frame, events)
    together = at_events - at_blank
    (off,) = np.nonzero(np.abs(by_event.sum(axis=1) - together) > COMPLETE_TO)
    if off.size:
        again, *_ = attributions(model, frame.iloc[off], events, 4 * INTEGRATION_STEPS)
        by_event[off, : again.shape[1]] = again
    return by_event, together


def _in_english(kind: int, events: int, amount: float, ago: int) -> str:
    one, many = SAID[kind].en
    text = (one if events == 1 else many).format(n=f"{events:,}", amount=f"{amount:,.2f}")
    when = {0: "today", 1: "yesterday"}.get(ago, f"{ago:,} days ago")
    return f"{text}, {when}"


def _in_chinese(kind: int, events: int, amount: float, ago: int) -> str:
    text = SAID[kind].zh.format(n=f"{events:,}", amount=f"{amount:,.2f}")
    when = {0: "今天", 1: "昨天"}.get(ago, f"{ago:,} 天前")
    return f"{when}{text}"
