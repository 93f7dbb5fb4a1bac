"""Assets and jobs as thin shells: raw tables, dbt models, the hourly marketplace, the block list."""
