"""`python -m ecommersss_platform.cli`: the `ecommersss` command."""

from ecommersss_platform.cli import main

if __name__ == "__main__":
    main()
