FROM node:14
MAINTAINER Web Team <web@example.org>
RUN mkdir -p /usr/src/app
WORKDIR /usr/src/app
ADD package.json /usr/src/app/
RUN npm install --only=production && npm cache clean --force
ADD . /usr/src/app
ENV PORT 8000
ENV DEBUG app:* -app:noise
EXPOSE 8000
CMD [ "npm", "start" ]
