#!/usr/bin/env bash
# Builds what a release consists of, for both architectures, so that the same commit gives the same bytes:
#
#   deploy/release.sh [TARGET...]     into dist/: an archive for each target and SHA256SUMS
#
# Needs Rust by rustup, clang and GNU tar. NEARKEY_TOOLCHAIN names a compiler, else the machine's default is used;
# SHA256SUMS tells which it was, since other compilers give other bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
targets=("$@")
[ $# -gt 0 ] || targets=(x86_64-unknown-linux-musl aarch64-unknown-linux-musl)
die() {
    echo "release.sh: $*" >&2
    exit 1
}

[ -n "${NEARKEY_RELEASE_DIRTY:-}" ] || [ -z "$(git status --porcelain)" ] || die "there are changes that are not committed"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
grep -q "^## \[\(Unreleased\|$version\)\]" CHANGELOG.md || die "CHANGELOG.md knows nothing of $version"
for program in clang gzip sha256sum rustup; do
    command -v "$program" >/dev/null || die "$program is missing"
done
tar --version 2>/dev/null | grep -q GNU || die "GNU tar is missing"

# What could differ between machines and days: time, zone, order, user, paths, and what the environment adds.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C CARGO_INCREMENTAL=0
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS RUSTC_WRAPPER
[ -z "${NEARKEY_TOOLCHAIN:-}" ] || export RUSTUP_TOOLCHAIN=$NEARKEY_TOOLCHAIN
remap="--remap-path-prefix=$PWD=/nearkey --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$(rustc --print sysroot)=/rust"
prefixes="-ffile-prefix-map=${CARGO_HOME:-$HOME/.cargo}=/cargo -ffile-prefix-map=$PWD=/nearkey"
out=${NEARKEY_DIST:-dist}
build=${CARGO_TARGET_DIR:-target}
rm -rf "$out"
mkdir -p "$out"

for target in "${targets[@]}"; do
    echo "== $target" >&2
    rustup target list --installed | grep -qx "$target" || rustup target add "$target"
    upper=$(tr 'a-z-' 'A-Z_' <<<"$target")
    env "CC_${target//-/_}=clang" "CFLAGS_${target//-/_}=$prefixes" "CARGO_TARGET_${upper}_LINKER=rust-lld" \
        "CARGO_TARGET_${upper}_RUSTFLAGS=$remap" cargo build --release --locked --target "$target"
done

# The pages are the same for every target, and made by the program that runs here.
native=$build/$(uname -m)-unknown-linux-musl/release/nearkey
[ -x "$native" ] || die "$native is missing: the targets must include this machine's own"

for target in "${targets[@]}"; do
    name=nearkey-$version-$target
    stage=$out/stage/$name
    mkdir -p "$stage/completions" "$stage/man"
    install -m 755 "$build/$target/release/nearkey" "$stage/nearkey"
    install -m 644 LICENSE README.md CHANGELOG.md proxy.toml deploy/systemd/nearkey.service "$stage/"
    for shell in bash zsh fish; do "$native" completions "$shell" >"$stage/completions/nearkey.$shell"; done
    "$native" man >"$stage/man/nearkey.1"
    tar --create --sort=name --format=posix --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
        --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode='u+rw,go=rX' \
        --directory "$out/stage" "$name" | gzip --no-name -9 >"$out/$name.tar.gz"
done
rm -rf "$out/stage"
(cd "$out" && sha256sum ./*.tar.gz | sed 's|\./||' >SHA256SUMS)
echo "# $(rustc --version), commit $(git rev-parse HEAD)" >>"$out/SHA256SUMS"
cat "$out/SHA256SUMS"
