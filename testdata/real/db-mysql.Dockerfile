FROM mysql:8.4
ENV MYSQL_DATABASE=app \
    MYSQL_USER=app
COPY conf.d/*.cnf /etc/mysql/conf.d/
COPY --chmod=644 init/*.sql /docker-entrypoint-initdb.d/
HEALTHCHECK --interval=5s --timeout=3s --retries=20 \
  CMD mysqladmin ping -h 127.0.0.1 -u "$MYSQL_USER" --password="$MYSQL_PASSWORD" || exit 1
VOLUME /var/lib/mysql /var/log/mysql
EXPOSE 3306 33060
CMD ["--character-set-server=utf8mb4", "--collation-server=utf8mb4_unicode_ci"]
