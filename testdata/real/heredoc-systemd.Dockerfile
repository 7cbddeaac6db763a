FROM fedora:40
RUN dnf -y install systemd nginx && dnf clean all
COPY <<app.service <<app.socket <<'app.timer' /etc/systemd/system/
[Unit]
Description=App
After=network.target

[Service]
ExecStart=/usr/bin/app --flag=${NOT_SET:-default}
Restart=on-failure
[Install]
WantedBy=multi-user.target
app.service
[Socket]
ListenStream=8080
app.socket
[Timer]
OnCalendar=*-*-* 00:${RANDOM}:00
app.timer
RUN <<A cat > /a && cat > /b <<B
first
A
second
B
RUN systemctl enable nginx app.socket
STOPSIGNAL SIGRTMIN+3
CMD ["/sbin/init"]
