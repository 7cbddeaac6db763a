FROM python:3.12-slim AS base

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=off \
    PIP_DISABLE_PIP_VERSION_CHECK=on \
    VIRTUAL_ENV=/opt/venv
ENV PATH="$VIRTUAL_ENV/bin:$PATH"

FROM base AS builder
RUN apt-get update \
    && apt-get install --no-install-recommends -y build-essential curl \
    # clean up at once

    && rm -rf /var/lib/apt/lists/*
RUN python -m venv $VIRTUAL_ENV
COPY requirements/*.txt /tmp/requirements/
RUN --mount=type=secret,id=pip,target=/root/.pip/pip.conf,required=true \
    pip install -r /tmp/requirements/prod.txt

FROM base
ARG UID=1000
ARG GID="${UID}"
RUN addgroup --gid "$GID" app && adduser --uid "$UID" --gid "$GID" --disabled-password app
COPY --from=builder $VIRTUAL_ENV $VIRTUAL_ENV
COPY --chown=app:app . /app
WORKDIR /app
USER app
HEALTHCHECK NONE
EXPOSE 8000
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
CMD gunicorn --bind 0.0.0.0:8000 --workers "${WORKERS:-4}" app.wsgi | tee -a /var/log/app.log
