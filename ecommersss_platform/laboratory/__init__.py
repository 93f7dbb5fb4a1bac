"""The rule laboratory: rule books evaluated on the orders and features of the warehouse.

`evaluation.py` writes a book as SQL over the silver tables; everything else here builds on it.
"""
