"""dbt around the project `dbt_project/`: manifest, arguments, the Dagster resource, and taking turns."""
