# syntax=docker/dockerfile:1
FROM composer:2 AS vendor
WORKDIR /app
COPY composer.json composer.lock ./
RUN --mount=type=cache,target=/tmp/cache \
    composer install --ignore-platform-reqs --no-interaction --no-plugins --no-scripts --prefer-dist

FROM node:20 AS assets
WORKDIR /app
COPY package*.json vite.config.js ./
COPY resources/ resources/
RUN npm ci && npm run build

FROM php:8.3-fpm-alpine
ARG EXTENSIONS="bcmath pdo_mysql intl opcache zip"
RUN set -ex \
  && apk add --no-cache --virtual .build-deps $PHPIZE_DEPS icu-dev libzip-dev \
  && docker-php-ext-install -j$(nproc) $EXTENSIONS \
  && pecl install redis-6.0.2 \
  && docker-php-ext-enable redis \
  && runDeps="$(scanelf --needed --nobanner --format '%n#p' --recursive /usr/local/lib/php/extensions | tr ',' '\n' | sort -u | awk 'system("[ -e /usr/local/lib/" $1 " ]") == 0 { next } { print "so:" $1 }')" \
  && apk add --no-cache $runDeps \
  && apk del .build-deps
COPY <<-'INI' /usr/local/etc/php/conf.d/zz-app.ini
	memory_limit = 256M
	opcache.enable = 1
	opcache.jit_buffer_size = ${not_expanded}
	INI
WORKDIR /var/www/html
COPY --chown=www-data:www-data . .
COPY --from=vendor --chown=www-data:www-data /app/vendor/ ./vendor/
COPY --from=assets --chown=www-data:www-data /app/public/build/ ./public/build/
RUN php artisan config:cache && php artisan route:cache
USER www-data
