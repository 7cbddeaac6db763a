FROM composer:2 AS vendor
WORKDIR /app
COPY composer.json composer.lock ./
RUN composer install --no-dev --no-scripts --prefer-dist --ignore-platform-reqs

FROM php:8.3-fpm-alpine
MAINTAINER Ops <ops@example.org>

RUN set -ex \
	&& apk add --no-cache --virtual .build-deps $PHPIZE_DEPS icu-dev libzip-dev \
	&& docker-php-ext-install -j"$(nproc)" intl pdo_mysql zip opcache \
	&& runDeps="$( \
		scanelf --needed --nobanner --format '%n#p' --recursive /usr/local/lib/php/extensions \
			| tr ',' '\n' \
			| sort -u \
			| awk 'system("[ -e /usr/local/lib/" $1 " ]") == 0 { next } { print "so:" $1 }' \
	)" \
	&& apk add --no-network --virtual .phpexts-rundeps $runDeps \
	&& apk del --no-network .build-deps

RUN { \
		echo 'opcache.memory_consumption=128'; \
		echo 'opcache.interned_strings_buffer=8'; \
	} > /usr/local/etc/php/conf.d/opcache-recommended.ini

COPY --from=vendor /app/vendor /var/www/vendor
COPY . /var/www
ADD https://example.org/downloads/tool.phar /usr/local/bin/tool
WORKDIR /var/www
USER www-data
ONBUILD COPY . /var/www
ONBUILD RUN ["composer", "dump-autoload", "--optimize"]
EXPOSE 9000
CMD ["php-fpm", "-F"]
