"""The Dagster code location: days from PostgreSQL to the marts, and the command that runs the platform.

How an order is decided is in `streaming`. `definitions.py` is the table of contents.
"""
