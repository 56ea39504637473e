# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Shared by the scripts of this folder; sourced, not run.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "error: $*" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "$1 needs root: run it with sudo"
}

# copy_sources TARGET: the tree without what was built in it, so that a build leaves the tree as
# it was. Times are kept: a second build of the same TARGET compiles only what changed.
copy_sources() {
    mkdir -p "$1"
    if [ -d "$top/.git" ] || [ -f "$top/.git" ]; then
        git -c safe.directory="$top" -C "$top" ls-files -z --cached --others --exclude-standard |
            (cd "$top" && while IFS= read -r -d '' file; do
                if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi
            done) | tar -C "$top" --null -T - -c | tar -C "$1" -x
    else
        tar -C "$top" --exclude='./build*' --exclude='*.o' --exclude='*.a' -c . | tar -C "$1" -x
    fi
}

# build_tree SOURCES BUILD LOG FLAG...: configures if needed and builds; no output but in LOG.
build_tree() {
    local sources=$1 build=$2 log=$3
    shift 3
    local cc=gcc
    command -v ccache > /dev/null && cc="ccache gcc"
    mkdir -p "$build"
    {
        [ -x "$sources/configure" ] || (cd "$sources" && ./autogen.sh) || return 1
        [ -f "$build/Makefile" ] || (cd "$build" && "$sources/configure" CC="$cc" "$@") || return 1
        make -C "$build" -j"$(nproc)" || return 1
    } >> "$log" 2>&1 < /dev/null
}
