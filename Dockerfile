# ringcast as an image: one program, a user without rights, a root that may be read-only.
#
#   docker build -t ringcast .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges \
#       --security-opt seccomp=seccomp.json -p 127.0.0.1:8080:8080 -v ringcast:/data ringcast
#
# Written for BuildKit and the legacy builder: no mounts, no heredocs. The tag of `rust` is the
# channel of rust-toolchain.toml, which stays outside: rustup in the image would follow it.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# Stripped of what only a debugger wants; names stay, for backtraces.
ENV CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=debuginfo

# The dependencies are a layer of their own, made anew only when they change: what is built first
# are targets with nothing in them. Those of load tests and benches stay so.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src loadtest benches \
    && sed -n '/^\[\[bench\]\]$/{n;s/^name = "\(.*\)"$/\1/p}' Cargo.toml \
        | while read -r bench; do echo 'fn main() {}' >"benches/$bench.rs"; done \
    && echo 'fn main() {}' | tee src/main.rs >loadtest/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin ringcast \
    && cargo clean --release --locked -p ringcast

# Only what .dockerignore lets through: the sources of the program.
COPY . .
RUN cargo build --release --locked --bin ringcast


FROM debian:bookworm-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ringcast" \
    org.opencontainers.image.description="A real-time message server: ordered rooms over WebSocket" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"

# The id is fixed: who mounts a directory of the host at /data gives it to 10001.
RUN groupadd --gid 10001 ringcast \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home \
        --shell /usr/sbin/nologin ringcast \
    && install -d -o 10001 -g 10001 -m 0750 /data
# Whom to trust, for rediss:// and TLS to PostgreSQL.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/release/ringcast /usr/local/bin/ringcast

# A container's own loopback is nobody else's: here it listens to all that can reach it.
ENV RINGCAST_BIND=0.0.0.0 RINGCAST_DATA_DIR=/data
USER 10001:10001
VOLUME /data
EXPOSE 8080
# SIGTERM drains: give it more than the drain window (8 s) before SIGKILL.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=3s --timeout=3s --start-period=10s --retries=3 CMD ["ringcast", "health"]
ENTRYPOINT ["ringcast"]
CMD ["serve"]
