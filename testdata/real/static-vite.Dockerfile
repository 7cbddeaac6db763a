FROM node:lts-alpine as build-stage
WORKDIR /app
COPY package*.json ./
RUN npm install
COPY . .
RUN npm run build

FROM nginx:stable-alpine as production-stage
COPY --from=build-stage /app/dist /usr/share/nginx/html
RUN printf 'server {\n  listen 8080;\n  root /usr/share/nginx/html;\n  location / { try_files $uri /index.html; }\n}\n' > /etc/nginx/conf.d/default.conf \
 && sed -i 's/^user .*;//' /etc/nginx/nginx.conf \
 && chown -R 101:101 /var/cache/nginx /run
USER 101
EXPOSE 8080
CMD ["nginx", "-g", "daemon off;"]
