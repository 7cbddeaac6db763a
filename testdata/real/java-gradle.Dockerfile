FROM gradle:8-jdk21-alpine AS cache
ENV GRADLE_USER_HOME=/cache
WORKDIR /app
COPY build.gradle.kts settings.gradle.kts gradle.properties ./
COPY gradle gradle
RUN gradle --no-daemon build -x test --stacktrace || :

FROM gradle:8-jdk21-alpine AS build
COPY --from=cache /cache /home/gradle/.gradle
COPY --chown=gradle:gradle . /app
WORKDIR /app
RUN ["gradle", "--no-daemon", "shadowJar", "-PskipDocs=true"]

FROM eclipse-temurin:21-jre-alpine
ARG APP_HOME=/opt/app
RUN addgroup app && adduser -D -G app -h ${APP_HOME} app
COPY --from=build --chown=app:app /app/build/libs/*-all.jar ${APP_HOME}/app.jar
USER app
WORKDIR ${APP_HOME}
HEALTHCHECK --start-period=30s --start-interval=1s CMD wget -qO- http://localhost:8080/health | grep -q UP
ENTRYPOINT ["sh", "-c", "exec java $JAVA_OPTS -jar app.jar \"$@\"", "--"]
