ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=off \
    PIP_DISABLE_PIP_VERSION_CHECK=on \
    POETRY_VERSION=1.8.3 \
    POETRY_VIRTUALENVS_IN_PROJECT=true \
    VENV_PATH="/opt/app/.venv"
ENV PATH="$VENV_PATH/bin:/root/.local/bin:$PATH"

FROM base AS builder
RUN apt-get update && apt-get install --no-install-recommends -y \
        build-essential \
        curl \
        # psycopg
        libpq-dev \

    && pip install "poetry==$POETRY_VERSION"
WORKDIR /opt/app
COPY poetry.lock pyproject.toml ./
RUN poetry install --no-root --only main

FROM base AS development
COPY --from=builder $VENV_PATH $VENV_PATH
WORKDIR /opt/app
COPY . .
EXPOSE 8000
CMD ["uvicorn", "--reload", "app.main:app"]

FROM base AS production
COPY --from=builder $VENV_PATH $VENV_PATH
COPY ./app /opt/app/app
WORKDIR /opt/app
CMD gunicorn -k uvicorn.workers.UvicornWorker -w ${WORKERS:-4} -b 0.0.0.0:${PORT:-8000} app.main:app
