# escape=`
FROM registry.example.org/windows/nanoserver:1809
SHELL ["cmd", "/S", "/C"]
ENV NODE_HOME="C:\Program Files\nodejs"
USER ContainerAdministrator
RUN setx /m PATH "%PATH%;%NODE_HOME%" & `
    mkdir C:\app
USER ContainerUser
COPY node-v20\ C:\node\
WORKDIR C:\app
CMD ["cmd", "/c", "node", "server.js"]
