# A Spring service in layers.
FROM eclipse-temurin:21-jdk AS build
WORKDIR /workspace
COPY .mvn/ .mvn
COPY mvnw pom.xml ./
RUN --mount=type=cache,target=/root/.m2 ./mvnw -q -B dependency:go-offline
COPY src src
RUN --mount=type=cache,target=/root/.m2 ./mvnw -q -B package -DskipTests \
  && java -Djarmode=layertools -jar target/*.jar extract --destination /layers

FROM eclipse-temurin:21-jre
LABEL vendor="Example Inc." com.example.release-date=2024-08-01
ARG JAVA_OPTS_DEFAULT="-XX:MaxRAMPercentage=75.0 -XX:+ExitOnOutOfMemoryError"
ENV JAVA_OPTS=${JAVA_OPTS:-$JAVA_OPTS_DEFAULT}
VOLUME ["/data", "/logs"]
WORKDIR /application
COPY --from=build /layers/dependencies/ ./
COPY --from=build /layers/spring-boot-loader/ ./
COPY --from=build /layers/snapshot-dependencies/ ./
COPY --from=build /layers/application/ ./
EXPOSE 8080-8081/tcp 5005/udp
HEALTHCHECK --interval=1m30s CMD curl -fsS "http://localhost:8080/actuator/health" || exit 1
ENTRYPOINT exec java $JAVA_OPTS org.springframework.boot.loader.launch.JarLauncher
