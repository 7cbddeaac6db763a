# syntax=docker/dockerfile:1
FROM alpine:3.20 AS tools

RUN <<EOT
set -eu
apk add --no-cache curl
# this is part of the script \
echo done
EOT

RUN <<-'PY' python3
	#!/usr/bin/env python3
	print("quoted: $HOME")
	PY

RUN cat <<ONE > /one && cat <<"TWO" > /two
first: $HOME
ONE
second
ONE
TWO

COPY --chmod=0755 <<run.sh <<-conf.ini /usr/local/etc/
#!/bin/sh
FROM inside a body is text
exec "$@"
run.sh
	[main]
	path = ${PATH:-/bin}
	conf.ini

FROM tools
COPY --from=tools /one /one
ONBUILD RUN <<EOF
echo triggered
EOF
COPY <<EOF package.json /srv/
{"name": "x"}
EOF
CMD ["cat", "<<EOF"]
ENTRYPOINT []
