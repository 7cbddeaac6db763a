FROM python:3.12-slim
ONBUILD ARG EXTRAS=""
ONBUILD COPY requirements.txt /tmp/
ONBUILD RUN pip install --no-cache-dir -r /tmp/requirements.txt ${EXTRAS:+"$EXTRAS"}
ONBUILD COPY --chown=1000:1000 . /app
ONBUILD WORKDIR /app
ONBUILD USER 1000
ONBUILD ENTRYPOINT ["python", "-m"]
ONBUILD CMD ["app"]
ENV PYTHONUNBUFFERED 1
