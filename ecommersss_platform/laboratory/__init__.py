"""The rule laboratory: what rules saw, what they decided, and what another book would have decided.

Its modules read the warehouse and decide nothing about live orders. They import no Dagster; the assets and
checks that use them are in `assets/` and beside `checks.py`.
"""
