"""Assets and jobs as thin shells: sources, raw tables, dbt models, the hourly marketplace, the block list."""
