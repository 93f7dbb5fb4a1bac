"""What every deployment needs around Dagster's instance: home, databases, storages, dead runs."""
