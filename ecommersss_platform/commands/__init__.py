"""Groups of `ecommersss` commands that have a module of their own."""
