"""What every deployment needs around Dagster's instance: home, databases, event storage, dead runs."""
