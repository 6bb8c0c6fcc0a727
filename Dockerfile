# syntax=docker/dockerfile:1
#
# Nearkey as an image of one file, for amd64 and arm64:
#
#   docker build -t nearkey .
#   docker buildx build --platform linux/amd64,linux/arm64 -t REGISTRY/nearkey:0.1.0 --push .
#
# tests/image carries out these steps without Docker.

# Compiles on the machine's own architecture for the image's: nothing is emulated.
FROM --platform=$BUILDPLATFORM rust:1.95-alpine AS build
# clang compiles the C code of ring for both; the linker is the one that comes with Rust.
# hadolint ignore=DL3018
RUN apk add --no-cache clang musl-dev
ENV CC_x86_64_unknown_linux_musl=clang \
    CC_aarch64_unknown_linux_musl=clang \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld
WORKDIR /src
ARG TARGETARCH=amd64
RUN case "$TARGETARCH" in \
        amd64) echo x86_64-unknown-linux-musl ;; \
        arm64) echo aarch64-unknown-linux-musl ;; \
        *) echo "Nearkey is not built for $TARGETARCH" >&2; exit 1 ;; \
    esac >triple && rustup target add "$(cat triple)"

# A layer of the dependencies, which stays as long as Cargo.lock does: an empty program needs them too.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches/l1 && echo '//! Empty.' >src/lib.rs && cp src/lib.rs src/main.rs && \
    echo 'fn main() {}' >>src/main.rs && cp src/main.rs benches/l1/main.rs && \
    cargo build --release --locked --target "$(cat triple)"

COPY src src
# cargo goes by the time of a file, and these may be older than the empty ones.
RUN touch src/lib.rs src/main.rs && \
    cargo build --release --locked --target "$(cat triple)" && \
    cp "${CARGO_TARGET_DIR:-target}/$(cat triple)/release/nearkey" nearkey

FROM scratch
LABEL org.opencontainers.image.title="nearkey" \
      org.opencontainers.image.description="Redis-protocol sidecar proxy: many app connections over a few TLS connections" \
      org.opencontainers.image.licenses="Apache-2.0"
# Nothing else is needed: the CAs of the web are built in, and nothing is ever written.
COPY --from=build /src/nearkey /nearkey
# By number, so that runAsNonRoot can tell that it is not root.
USER 65532:65532
# Settings come from the environment or from /etc/nearkey/proxy.toml. None are set here: they would win over the file.
EXPOSE 6379 9180
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/nearkey", "healthcheck"]
ENTRYPOINT ["/nearkey"]
