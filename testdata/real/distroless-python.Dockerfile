FROM python:3.11-slim AS build
RUN python -m venv --copies /venv
COPY requirements.txt .
RUN /venv/bin/pip install -r requirements.txt
FROM registry.example.org/distroless/python3-debian12:debug
COPY --from=build /venv/lib/python3.11/site-packages /site-packages
COPY app /app
ENV PYTHONPATH=/site-packages
WORKDIR /app
SHELL ["/busybox/sh", "-c"]
RUN ls -la /app
USER nonroot
CMD ["main.py"]
