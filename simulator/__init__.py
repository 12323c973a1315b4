"""A shop with known truth: customers who arrive, buy, browse, answer offers and leave.

shop -> customers -> campaigns -> orders -> visits -> reviews -> (dirt) -> Parquet
`shop.simulate` is the only way in. Everything below it is arrays in, arrays out, drawn from
generators that know the seed and the part they work on: no clock, no machine, no order of threads.
Times are seconds since the shop opened, money is whole cents, until `writing` makes columns.
"""
