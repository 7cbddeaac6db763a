FROM registry.example.org/devcontainers/base:ubuntu-24.04
ARG USERNAME=vscode
ARG USER_UID=1000
ARG USER_GID=$USER_UID
ARG INSTALL_ZSH="true"
ARG UPGRADE_PACKAGES="false"
COPY library-scripts/*.sh library-scripts/*.env /tmp/library-scripts/
RUN apt-get update && export DEBIAN_FRONTEND=noninteractive \
    && /bin/bash /tmp/library-scripts/common.sh "${INSTALL_ZSH}" "${USERNAME}" "${USER_UID}" "${USER_GID}" "${UPGRADE_PACKAGES}" \
    && apt-get clean -y && rm -rf /var/lib/apt/lists/* /tmp/library-scripts
USER $USERNAME
RUN curl -fsSL https://tools.example.org/install.sh | sh -s -- --yes --path "$HOME/.local/bin" \
    && echo 'eval "$(starship init bash)"' >> ~/.bashrc
ENV PATH=/home/$USERNAME/.local/bin:$PATH \
    EDITOR="code --wait"
USER root
# [Optional] Uncomment this section to install more packages.
# RUN apt-get update && export DEBIAN_FRONTEND=noninteractive \
#     && apt-get -y install --no-install-recommends <your-package-list-here>
CMD [ "sleep", "infinity" ]
