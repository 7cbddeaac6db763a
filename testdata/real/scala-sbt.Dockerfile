FROM sbtscala/scala-sbt:eclipse-temurin-21.0.2_13_1.9.9_3.4.1 AS build
WORKDIR /build
COPY project/build.properties project/plugins.sbt project/
COPY build.sbt .
RUN sbt update
COPY . .
RUN sbt 'set assembly / test := {}' "assembly; show assembly / assemblyOutputPath"

FROM eclipse-temurin:21-jre
COPY --from=build /build/target/scala-*/app-assembly-*.jar /app.jar
CMD ["java", "-jar", "/app.jar"]
