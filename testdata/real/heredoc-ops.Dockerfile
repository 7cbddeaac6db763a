# syntax=docker/dockerfile:1
FROM debian:bookworm-slim
SHELL ["/bin/bash", "-euxo", "pipefail", "-c"]
RUN <<EOF
apt-get update
apt-get install -y --no-install-recommends \
    curl \
    jq
# comments stay with the shell
rm -rf /var/lib/apt/lists/*
EOF

RUN --mount=type=secret,id=token <<'EOF'
if [[ -s /run/secrets/token ]]; then
  curl -fsS -H "Authorization: Bearer $(< /run/secrets/token)" https://ops.example.org/bootstrap | bash
fi
EOF

COPY --chmod=0755 <<"ENTRY" /entrypoint.sh
#!/bin/bash
set -Eeuo pipefail
trap 'echo "line $LINENO failed: $BASH_COMMAND" >&2' ERR
exec "${@:-bash}"
ENTRY

RUN python3 - <<PY || true
import sys
print(f"hello from {sys.version}")
PY

COPY <<-EOT /etc/motd
	Built for ${USER:-nobody}
	  with \${literal} dollars
	EOT

ENTRYPOINT ["/entrypoint.sh"]
