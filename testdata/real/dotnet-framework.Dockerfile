# escape=`
ARG TAG=4.8-windowsservercore-ltsc2022
FROM registry.example.org/dotnet/framework/sdk:${TAG} AS build
WORKDIR C:\src
COPY *.sln .\
COPY Web\*.csproj .\Web\
COPY Web\packages.config .\Web\
RUN nuget restore
COPY . .
RUN msbuild /p:Configuration=Release `
            /p:DeployOnBuild=true `
            # publish into a folder
            /p:PublishUrl=C:\out

FROM registry.example.org/dotnet/framework/aspnet:${TAG}
SHELL ["powershell", "-NoProfile", "-Command", "$ErrorActionPreference='Stop';"]
RUN Remove-Item -Recurse C:\inetpub\wwwroot\*; `
    New-Item -ItemType Directory -Path 'C:\logs' | Out-Null
WORKDIR /inetpub/wwwroot
COPY --from=build ["C:\\out\\", "."]
ENV APP_POOL="DefaultAppPool" LOGS=C:\logs\
HEALTHCHECK --interval=30s CMD powershell -command `
    try { $r = Invoke-WebRequest http://localhost/health -UseBasicParsing; `
          if ($r.StatusCode -eq 200) { exit 0 } else { exit 1 } } catch { exit 1 }
ENTRYPOINT ["C:\\ServiceMonitor.exe", "w3svc"]
