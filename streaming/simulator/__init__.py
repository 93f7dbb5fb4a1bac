"""Everything that is invented: users, products, prices and orders, for demonstrations, tests and benchmarks.

- `population`: who signs up and which products are listed or re-priced in an hour. Pure functions.
- `shoppers`: the orders that users place, honest and fraudulent. Pure functions of a market and a seed.
- `aftermath`: how orders are shipped, disputed and reviewed. Pure functions of an order.
- `tables`: the simulated population and aftermath in the operational database, and the market read from it.
- `producer`: publishes orders live, at a rate.
- `history`: a simulated past: population and orders from a first day until now, and orders of past days.
- `ground_truth`: the side file that says which fraud pattern made an order.

The simulator uses the rest of `streaming`; nothing else in `streaming` may import it. Code for real orders
does not belong here: publishing a file is in `streaming.replay`, flagging orders in `streaming.consumer`.
"""
