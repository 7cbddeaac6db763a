FROM caddy:2-builder AS builder
RUN xcaddy build \
    --with example.org/caddy-dns/provider \
    --with example.org/caddy/cache-handler@v0.13.0

FROM caddy:2
COPY --from=builder /usr/bin/caddy /usr/bin/caddy
COPY <<EOF /etc/caddy/Caddyfile
{
	admin off
}
:80 {
	root * /srv
	file_server
	# {\$SITE} is read when Caddy starts
	header X-Site "{\$SITE}"
}
EOF
COPY public /srv
