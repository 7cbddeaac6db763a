FROM nginx:1.26 AS builder
ENV HEADERS_MORE=0.37
RUN apt-get update && apt-get install -y build-essential libpcre3-dev zlib1g-dev wget
RUN wget "https://nginx.example.org/download/nginx-${NGINX_VERSION}.tar.gz" -O nginx.tar.gz && \
    CONFARGS=$(nginx -V 2>&1 | sed -n -e 's/^.*arguments: //p') && \
    mkdir -p /usr/src && tar -zxC /usr/src -f nginx.tar.gz && \
    cd /usr/src/nginx-$NGINX_VERSION && \
    eval ./configure --with-compat "$CONFARGS" --add-dynamic-module=../headers-more && \
    make modules
FROM nginx:1.26
COPY --from=builder /usr/src/nginx-*/objs/*.so /etc/nginx/modules/
RUN sed -i '1iload_module modules/ngx_http_headers_more_filter_module.so;' /etc/nginx/nginx.conf && nginx -t
