# syntax=docker/dockerfile:1
ARG CUDA=12.4.1
ARG CUDNN=cudnn
ARG UBUNTU=22.04
FROM nvidia/cuda:${CUDA}-${CUDNN}-devel-ubuntu${UBUNTU} AS wheels
ARG TORCH_CUDA_ARCH_LIST="7.0;7.5;8.0;8.6;8.9;9.0+PTX"
ARG MAX_JOBS=8
ENV DEBIAN_FRONTEND=noninteractive TORCH_CUDA_ARCH_LIST=$TORCH_CUDA_ARCH_LIST MAX_JOBS=$MAX_JOBS
RUN rm -f /etc/apt/apt.conf.d/docker-clean
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt,sharing=locked \
    apt-get update && apt-get install -y git ninja-build python3-dev python3-pip
WORKDIR /build
COPY requirements.txt constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --wheel-dir=/wheels -r requirements.txt -c constraints.txt
RUN <<EOF
set -euo pipefail 2>/dev/null || set -eu
git clone --depth 1 https://git.example.org/flash-attn.git
cd flash-attn
pip wheel --no-build-isolation --wheel-dir=/wheels .
EOF

FROM nvidia/cuda:${CUDA}-base-ubuntu${UBUNTU}
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    apt-get update && apt-get install -y python3-pip && pip install --no-index --find-links=/wheels torch vllm
COPY --link models/ /models/
WORKDIR /srv
COPY serve.py .
EXPOSE 8000-8003
ENTRYPOINT ["python3", "-m", "serve"]
CMD ["--tensor-parallel-size", "1"]
