# escape=`
FROM registry.example.org/windows/servercore:ltsc2022 AS build

SHELL ["powershell", "-Command", "$ErrorActionPreference = 'Stop'; $ProgressPreference = 'SilentlyContinue';"]

ENV GIT_VERSION=2.45.0 `
    GIT_HOME=C:\git\

RUN Invoke-WebRequest -Uri https://example.org/git.zip -OutFile C:\git.zip; `
    Expand-Archive C:\git.zip -DestinationPath C:\git; `
    # archives are no longer needed
    Remove-Item C:\git.zip -Force

WORKDIR C:\app
COPY ["app files\\", "C:\\app\\"]
COPY config\*.json C:\app\config\
USER ContainerAdministrator
RUN setx /M PATH $('{0};{1}' -f $env:PATH, 'C:\git\cmd')
ENTRYPOINT ["C:\\app\\server.exe"]
CMD ["--config", "C:\\app\\config\\main.json"]
