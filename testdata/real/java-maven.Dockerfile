FROM maven:3.9-eclipse-temurin-21 AS build
WORKDIR /workspace
COPY pom.xml .
COPY */pom.xml ./poms/
RUN --mount=type=cache,target=/root/.m2 mvn -B -e -C -T 1C dependency:go-offline || true
COPY . .
RUN --mount=type=cache,target=/root/.m2 mvn -B package -DskipTests -Drevision=${VERSION:-0-SNAPSHOT}

FROM tomcat:10-jre21
RUN rm -rf ${CATALINA_HOME}/webapps/*
COPY --from=build /workspace/web/target/*.war ${CATALINA_HOME}/webapps/ROOT.war
COPY conf/server.xml $CATALINA_HOME/conf/
ENV JAVA_OPTS="-XX:MaxRAMPercentage=75.0 -Djava.security.egd=file:/dev/./urandom" \
    CATALINA_OPTS='-Dfile.encoding=UTF-8'
EXPOSE 8080
CMD ["catalina.sh", "run"]
