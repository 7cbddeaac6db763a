FROM ubuntu:24.04 AS toolchain
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update -y && apt-get install -y --no-install-recommends \
    ccache cmake g++-14 ninja-build pkg-config \
    libboost-all-dev libssl-dev \
 && update-alternatives --install /usr/bin/g++ g++ /usr/bin/g++-14 100 \
 && rm -rf /var/lib/apt/lists/*

FROM toolchain AS dependencies
WORKDIR /deps
ADD third_party/fmt-10.tar.gz third_party/spdlog-1.14.tar.xz ./
RUN for d in */; do cmake -S "$d" -B "/build/$d" -GNinja -DCMAKE_BUILD_TYPE=Release && ninja -C "/build/$d" install; done

FROM dependencies AS build
ARG SANITIZE=""
ARG BUILD_TYPE=RelWithDebInfo
ENV CCACHE_DIR=/ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
WORKDIR /src
COPY CMakeLists.txt .
COPY cmake cmake
COPY include include
COPY src src
RUN --mount=type=cache,target=/ccache \
    cmake -B /build -GNinja -DCMAKE_BUILD_TYPE=${BUILD_TYPE} ${SANITIZE:+-DSANITIZE=$SANITIZE} && \
    ninja -C /build && ninja -C /build test && DESTDIR=/out ninja -C /build install/strip

FROM ubuntu:24.04
COPY --from=build /out /
RUN ldconfig
USER nobody:nogroup
ENTRYPOINT ["/usr/local/bin/server"]
