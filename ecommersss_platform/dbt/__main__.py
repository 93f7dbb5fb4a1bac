"""`python -m ecommersss_platform.dbt`: parse the dbt project if its manifest is out of date."""

from ecommersss_platform.dbt.project import main

if __name__ == "__main__":
    raise SystemExit(main())
