FROM python:3.11-bullseye
LABEL maintainer='Platform "Core" <core@example.org>' version=1.4 com.example.empty=
ARG UID=1000
ARG GID=1000
RUN groupadd -g "${GID}" -r web \
  && useradd -d '/code' -g web -l -r -u "${UID}" web \
  && chown web:web -R '/code' 2>/dev/null || true
WORKDIR /code
COPY --chown=web:web ./requirements/*.txt ./requirements/
RUN pip install --require-hashes -r requirements/production.txt
COPY --chown=web:web . .
USER web
RUN SECRET_KEY=unused python manage.py collectstatic --noinput --clear
VOLUME ["/code/media", "/code/static"]
STOPSIGNAL SIGINT
ENTRYPOINT ["./docker/entrypoint.sh"]
CMD ["gunicorn", "--config", "python:config.gunicorn", "config.wsgi"]
