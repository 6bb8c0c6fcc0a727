# Installs what ./test and ./quickstart need; sourced by them.

say() { printf '\n== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

install_packages() { # install_packages APT_NAMES -- BREW_NAMES
    local apt=() brew=() into=apt
    for name in "$@"; do
        if [ "$name" = -- ]; then into=brew; elif [ $into = apt ]; then apt+=("$name"); else brew+=("$name"); fi
    done
    if command -v apt-get >/dev/null; then
        say "Installing ${apt[*]}"
        [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || die "not root and no sudo: install ${apt[*]} yourself"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update >/dev/null
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${apt[@]}" >/dev/null ||
            die "apt-get could not install ${apt[*]}"
    elif command -v brew >/dev/null; then
        say "Installing ${brew[*]}"
        brew install --quiet "${brew[@]}" || die "brew could not install ${brew[*]}"
    else
        die "install these first (no apt-get, no brew here): ${apt[*]}"
    fi
}

# Debian starts a packaged redis-server as a service; the tests start their own and need the default port of nobody.
install_redis() {
    command -v redis-server >/dev/null && return
    install_packages redis-server -- redis
    command -v systemctl >/dev/null && as_root systemctl disable --now redis-server >/dev/null 2>&1
    return 0
}

make_venv() { # make_venv REQUIREMENTS...: .venv with these packages
    local file wanted=()
    for file in "$@"; do wanted+=(-r "$file"); done
    # Debian's python3 has the module venv, but not what it needs, unless python3-venv is there.
    python3 -c 'import ensurepip' 2>/dev/null || install_packages python3-venv -- python3
    if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        say "Making .venv"
        python3 -m venv --clear .venv || die "python3 -m venv failed"
    fi
    if ! cat "$@" | cmp -s - .venv/installed.txt; then
        say "Installing Python packages"
        .venv/bin/pip install --quiet --disable-pip-version-check "${wanted[@]}" || die "pip could not install $*"
        cat "$@" >.venv/installed.txt
    fi
}
