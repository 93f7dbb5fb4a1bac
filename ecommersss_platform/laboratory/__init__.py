"""The rule laboratory: what rules saw, what they decided, and what another book would have decided.

Its modules read the warehouse and decide nothing about live orders. They import no Dagster; the assets and
checks that use them are in `assets/` and beside `checks.py`.
"""

BACKTEST_JOB = "rules_backtest"
"""The name of the job that tries a rule book on past orders."""
TRAINING_SET = ("laboratory", "training_set")
"""The key of the asset of the training set."""
