# mosquitto in a container, as user 10001; its configuration comes from `fedfleet broker config`.
#   docker build -f cloud/broker.Dockerfile -t fedfleet-broker .
# The same command builds what breaks links on purpose: --target faults -t fedfleet-faults (tc and iptables).
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS faults
RUN apt-get update && apt-get install -y --no-install-recommends iproute2 iptables \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
USER root

FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends mosquitto \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && install -d -o 10001 -g 10001 -m 700 /var/lib/mosquitto /etc/fedfleet
VOLUME /var/lib/mosquitto /etc/fedfleet
USER 10001:10001
EXPOSE 8883
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["bash", "-c", ": < /dev/tcp/127.0.0.1/8883"]
ENTRYPOINT ["/usr/sbin/mosquitto"]
CMD ["-c", "/etc/fedfleet/mosquitto.conf"]
