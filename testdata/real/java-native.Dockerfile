# syntax=docker/dockerfile:1
FROM registry.example.org/graalvm/native-image-community:21 AS native
WORKDIR /src
COPY --chmod=0755 mvnw ./
COPY .mvn .mvn
COPY pom.xml ./
COPY src src
RUN --mount=type=cache,target=/root/.m2 ./mvnw -Pnative -DskipTests native:compile \
 && mkdir /dist \
 && cp target/app /dist/

FROM registry.example.org/distroless/base-debian12
COPY --from=native /dist/app /app
EXPOSE 8080
ENTRYPOINT ["/app", "-Xmx64m"]
