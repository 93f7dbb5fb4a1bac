"""The order stream: from the topic to PostgreSQL and the flagged stream.

Nothing here imports Dagster or `ecommersss_platform`, and only `simulator/` invents data.
"""
