"""Around `dbt_project/`: manifest, arguments, sources, the Dagster resource, and the lock."""
