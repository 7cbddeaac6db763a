FROM --platform=linux/amd64 klakegg/hugo:0.111.3-ext-alpine AS hugo
COPY . /src
ARG BASE_URL=/
RUN hugo --minify --baseURL "$BASE_URL" --destination /target

FROM nginx:1.27-alpine-slim
LABEL org.opencontainers.image.licenses=MIT org.opencontainers.image.description="a site, \
in two lines"
COPY nginx/*.conf /etc/nginx/conf.d/
COPY --from=hugo /target /usr/share/nginx/html
RUN find /usr/share/nginx/html -type f \( -name '*.css' -o -name '*.html' \) -exec gzip -k9 {} +
STOPSIGNAL SIGQUIT
