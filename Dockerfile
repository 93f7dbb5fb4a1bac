# The image of every service in docker-compose.yml, which sets the command of each.
# Every package is checked against its hash, nothing is compiled, it holds no secret and runs as user 10001.

FROM python:3.12-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /opt/ecommersss
# Requirements come first, so that a change of code does not reinstall them.
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
# Parses dbt's manifest after the last file is copied, so that no container has to when it starts. A manifest is for
# one warehouse; deploy/bigquery.yml builds the other image.
ARG ECOMMERSSS_WAREHOUSE=duckdb
ARG ECOMMERSSS_BIGQUERY_PROJECT
RUN python -m ecommersss_platform.dbt
USER 10001:10001
# By default a container is the code location that the webserver and the daemon connect to.
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 \
    CMD ["dagster", "api", "grpc-health-check", "--port", "4000"]
CMD ["dagster", "api", "grpc", "--module-name", "ecommersss_platform.definitions", "--host", "0.0.0.0", "--port", "4000"]
