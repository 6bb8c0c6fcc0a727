# For `test`: the long form of the fuzzer.

# The stack that a target has to do with, in KiB: one that recurses into its input needs more for hostile input.
readonly fuzz_stack=1024

fuzz_long() { # fuzz_long [TARGET...]
    command -v cargo >/dev/null || die "Rust is missing: see https://rustup.rs"
    cargo +nightly --version >/dev/null 2>&1 || die "the fuzzer needs Rust's nightly: rustup toolchain install nightly"
    if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
        say "Installing cargo-fuzz"
        cargo install cargo-fuzz --locked || die "cargo-fuzz could not be installed"
    fi
    local targets=("$@") limit=-max_total_time=${NEARKEY_FUZZ_SECONDS:-60} failed=() target
    [ -n "${NEARKEY_FUZZ_RUNS:-}" ] && limit=-runs=$NEARKEY_FUZZ_RUNS
    if [ ${#targets[@]} -eq 0 ]; then
        while read -r target; do targets+=("$target"); done < <(cargo +nightly fuzz list)
    fi
    say "Building the fuzzer"
    # The program has no unsafe code of its own: without a sanitizer twice as many inputs are tried.
    cargo +nightly fuzz build --sanitizer "${NEARKEY_FUZZ_SANITIZER:-none}" || die "the build failed"
    for target in "${targets[@]}"; do
        say "Fuzz: $target"
        fuzz_one "$target" "$limit" || failed+=("$target")
    done
    [ ${#failed[@]} -eq 0 ] || die "found something: ${failed[*]} (fuzz/artifacts)"
}

# What is new goes to fuzz/grown, which is not kept; a finding goes to fuzz/corpus by hand, once it is mended.
fuzz_one() { # fuzz_one TARGET LIMIT
    local target=$1 limit=$2 dict=resp
    case $target in config | admin | glob) dict=$target ;; esac
    mkdir -p "fuzz/grown/$target"
    (
        ulimit -s $fuzz_stack
        cargo +nightly fuzz run --sanitizer "${NEARKEY_FUZZ_SANITIZER:-none}" "$target" "fuzz/grown/$target" "fuzz/corpus/$target" -- \
            "$limit" -dict="fuzz/dict/$dict.dict" -max_len=4096 -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 2>&1 |
            grep -vE '^#[0-9]+.(NEW|REDUCE|RELOAD)'
        exit "${PIPESTATUS[0]}"
    )
}
