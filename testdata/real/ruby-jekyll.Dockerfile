FROM ruby:3.2-alpine AS site
RUN apk add --no-cache build-base
WORKDIR /site
COPY Gemfile* ./
RUN bundle config set --local without 'test' && bundle install -j4
COPY . ./
ARG JEKYLL_ENV=production
RUN JEKYLL_ENV=${JEKYLL_ENV} bundle exec jekyll build --trace

FROM nginx:alpine
COPY --from=site /site/_site /usr/share/nginx/html
COPY <<"EOF" /etc/nginx/conf.d/default.conf
server {
    listen 80 default_server;
    location / {
        root /usr/share/nginx/html;
        try_files $uri $uri/ $uri.html =404;
    }
    location ~* \.(css|js|png)$ { expires 30d; }
}
EOF
