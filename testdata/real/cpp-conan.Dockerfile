FROM conanio/gcc13:latest AS build
USER root
WORKDIR /project
COPY conanfile.txt profile ./
RUN conan install . --output-folder=build --build=missing -pr:b=default -pr:h=./profile
COPY . .
RUN cmake --preset conan-release && cmake --build --preset conan-release -- -j"$(nproc)"

FROM debian:bookworm-slim
COPY --from=build /project/build/Release/bin/ /usr/local/bin/
CMD ["app"]
