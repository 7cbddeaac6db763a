FROM wordpress:6-php8.2-apache
COPY --chown=33:33 wp-content/ /var/www/html/wp-content/
COPY custom.ini $PHP_INI_DIR/conf.d/
RUN a2enmod rewrite headers \
    && sed -ri -e 's!/var/www/html!${APACHE_DOCUMENT_ROOT}!g' /etc/apache2/sites-available/*.conf \
    && { \
        echo 'upload_max_filesize = 64M'; \
        echo 'post_max_size = 64M'; \
    } > /usr/local/etc/php/conf.d/uploads.ini
ENV APACHE_DOCUMENT_ROOT=/var/www/html/public
VOLUME /var/www/html
EXPOSE 80 443
