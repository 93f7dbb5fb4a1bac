"""The fraud report: a page for each business day, for an analyst with a coffee, and an index of the pages.

Rows come from the warehouse, summed there, and from PostgreSQL (`rows.py`). Pure functions turn them into
the figures of a day (`figures.py`, `usual.py`, `rules.py`) and these into HTML (`page.py`, `charts.py`,
`words.py`, `templates/`). `folder.py` keeps the files. `build.py` ties the steps together.

To add a section: a query in `rows.py`, its figures in `figures.py`, and a template named in `page.SECTIONS`.
"""
