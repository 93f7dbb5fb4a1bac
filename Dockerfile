# The platform's image: one for every service of docker-compose.yml, which says what each runs.
# Hashes are checked for every package; nothing is compiled; no secret is in it; it runs as user 10001.

FROM python:3.12-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /opt/ecommersss
# The requirements alone first: a change of code does not install them again.
COPY requirements/base.txt requirements/base.txt
RUN pip install --require-hashes --no-deps --requirement requirements/base.txt
COPY pyproject.toml README.md LICENSE ./
COPY streaming streaming
COPY ecommersss_platform ecommersss_platform
COPY dbt_project dbt_project
COPY deploy/workspace.yaml deploy/workspace.yaml
RUN pip install --no-deps --no-build-isolation --editable . \
    && python -m compileall -q streaming ecommersss_platform

FROM python:3.12-slim-bookworm
RUN groupadd --gid 10001 ecommersss \
    && useradd --uid 10001 --gid ecommersss --no-log-init --home-dir /var/lib/ecommersss --create-home \
        --shell /usr/sbin/nologin ecommersss
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/ecommersss /opt/ecommersss
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ECOMMERSSS_HOME=/var/lib/ecommersss \
    DAGSTER_HOME=/var/lib/ecommersss/dagster
WORKDIR /opt/ecommersss
# Newer than every file it is made from, so that no container parses the dbt project when it starts. It is made for
# one warehouse; deploy/bigquery.yml asks for the other.
ARG ECOMMERSSS_WAREHOUSE=duckdb
ARG ECOMMERSSS_BIGQUERY_PROJECT
RUN python -m ecommersss_platform.dbt
USER 10001:10001
# What the image is when nothing else is said: the code location, for the webserver and the daemon to talk to.
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 \
    CMD ["dagster", "api", "grpc-health-check", "--port", "4000"]
CMD ["dagster", "api", "grpc", "--module-name", "ecommersss_platform.definitions", "--host", "0.0.0.0", "--port", "4000"]
