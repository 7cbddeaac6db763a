FROM alpine:3.20 AS build
ARG ZIG=0.13.0
RUN apk add --no-cache curl xz minisign
RUN curl -fLo zig.tar.xz https://ziglang.example.org/zig-linux-$(uname -m)-${ZIG}.tar.xz && tar -xJf zig.tar.xz && mv zig-linux-*/ /zig
ENV PATH $PATH:/zig
WORKDIR /src
COPY build.zig build.zig.zon ./
COPY src/ src/
RUN zig build -Doptimize=ReleaseSafe --prefix /out
FROM scratch
COPY --from=build /out/bin/ /bin/
ENTRYPOINT ["/bin/app"]
