FROM jenkins/inbound-agent:latest-jdk17
USER root
ARG DOCKER_CLI=27.1.1
ARG KUBECTL=v1.30.3
ADD https://downloads.example.org/kubectl/${KUBECTL}/kubectl /usr/local/bin/
RUN set -o errexit -o nounset \
 && chmod 755 /usr/local/bin/kubectl \
 && install -m 0755 -d /etc/apt/keyrings \
 && echo "deb [arch=$(dpkg --print-architecture) signed-by=/etc/apt/keyrings/x.asc] https://apt.example.org $(. /etc/os-release && echo "$VERSION_CODENAME") stable" > /etc/apt/sources.list.d/x.list \
 && apt-get update && apt-get install -y docker-ce-cli=5:${DOCKER_CLI}* \
 && usermod -aG 999 jenkins
USER jenkins
ENTRYPOINT ["/usr/local/bin/jenkins-agent"]
