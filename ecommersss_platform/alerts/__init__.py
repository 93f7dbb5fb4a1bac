"""Alerts: what is wrong now, who is told, and through which channel."""
