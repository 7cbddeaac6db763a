from ubuntu:14.04
maintainer Somebody <somebody@example.org>

env DEBIAN_FRONTEND noninteractive
env HOME /root
run apt-get update
run apt-get install -y python-software-properties && \

    apt-get clean
add . /opt/app
add start /start
run chmod 755 /start
label version 1.0
expose 80
user root
workdir /opt
volume ["/data"]
cmd ["/start"]
