# syntax=docker/dockerfile:1
FROM python:3.13-slim-bookworm AS build
COPY --from=registry.example.org/astral/uv:0.5 /uv /uvx /bin/
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
WORKDIR /app
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=uv.lock,target=uv.lock \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    uv sync --frozen --no-install-project --no-dev
COPY . /app
RUN --mount=type=cache,target=/root/.cache/uv uv sync --frozen --no-dev

FROM python:3.13-slim-bookworm
COPY --from=build --chown=nobody:nogroup /app /app
ENV PATH="/app/.venv/bin:$PATH"
USER nobody
CMD ["fastapi", "run", "--host", "0.0.0.0", "/app/src/main.py"]
