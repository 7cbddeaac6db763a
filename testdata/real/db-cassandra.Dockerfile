FROM cassandra:4.1
RUN set -eux; \
	sed -ri 's/(- seeds:).*/\1 "'"127.0.0.1"'"/' "$CASSANDRA_CONF/cassandra.yaml"; \
	for yaml in \
		cluster_name \
		num_tokens \
	; do \
		var="CASSANDRA_${yaml^^}"; \
		val="${!var:-}"; \
		if [ "$val" ]; then \
			sed -ri 's/^(# )?('"$yaml"':).*/\2 '"$val"'/' "$CASSANDRA_CONF/cassandra.yaml"; \
		fi; \
	done
EXPOSE 7000 7001 7199 9042 9160
