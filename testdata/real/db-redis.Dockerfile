FROM redis:7-alpine
RUN apk add --no-cache 'su-exec>=0.2' tzdata \
    && mkdir -p /usr/local/etc/redis
COPY <<redis.conf <<users.acl /usr/local/etc/redis/
bind 0.0.0.0
maxmemory 256mb
aclfile /usr/local/etc/redis/users.acl
redis.conf
user default off
user app on ~app:* +@all -@dangerous
users.acl
USER redis
CMD ["redis-server", "/usr/local/etc/redis/redis.conf"]
