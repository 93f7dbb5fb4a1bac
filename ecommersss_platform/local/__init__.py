"""The embedded platform: its PostgreSQL, and the processes that one command supervises."""
