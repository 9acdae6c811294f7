# Shared by the recipes in guest-images/ and by tools/test-host; sourced, never run.
# The cache, digests of inputs, Debian packages unpacked without installing them.
# A caller has set -euo pipefail and, before sourcing, `me` to its name for messages.

die() { echo "$me: $*" >&2; exit 1; }
say() { echo "$me: $*" >&2; }

cache_root() {
    local dir=${XDG_CACHE_HOME-}        # a relative one is not valid (XDG Base Directory Specification)
    [[ $dir == /* ]] || dir=${HOME:?HOME is not set, nor XDG_CACHE_HOME}/.cache
    dir+=/vmm
    mkdir -p "$dir" || die "cannot create the cache $dir"
    echo "$dir"
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null ||
            die "'$tool' is not installed; tools/setup installs what is needed"
    done
}

# digest FILE|STRING...: 16 hex digits over the arguments, of an existing file its content
digest() {
    local input
    for input in "$@"; do
        if [[ -f $input ]]; then sha256sum <"$input"; else sha256sum <<<"$input"; fi
    done | sha256sum | cut -c1-16
}

# archive_says NAME COMMAND...: what COMMAND (apt-cache ...) prints, remembered until the next
# apt-get update, since apt may need a second to answer
archive_says() {
    local memo answer
    memo=$(cache_root)/archive/$1; shift
    if [[ -s $memo && $memo -nt /var/lib/apt/lists ]]; then cat "$memo"; return; fi
    answer=$(LC_ALL=C "$@" 2>/dev/null) || true
    [[ $answer ]] || return 0
    mkdir -p "${memo%/*}"
    echo "$answer" >"$memo.$$"; mv "$memo.$$" "$memo"
    echo "$answer"
}

# deb_version PACKAGE: the version that the archive offers
deb_version() {
    local version
    version=$(archive_says "$1.policy" apt-cache policy "$1" | awk '$1 == "Candidate:" { print $2 }')
    [[ $version && $version != "(none)" ]] ||
        die "the package archive does not offer '$1' (is it Debian 12, with its updates? did apt-get update run?)"
    echo "$version"
}

# deb_concrete META: the package that a meta package (linux-image-6.12-amd64) stands for
deb_concrete() {
    local package
    package=$(archive_says "$1.depends" apt-cache depends "$1" |
        awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ && !found { print $2; found = 1 }')
    echo "${package:-$1}"
}

# deb_fetch PACKAGE VERSION: path of the .deb in the cache
deb_fetch() {
    local package=$1 version=$2 dir found
    dir=$(cache_root)/debs/${package}_$version
    if [[ ! -d $dir ]]; then
        say "fetching $package $version"
        mkdir -p "${dir%/*}"
        local partial
        partial=$(mktemp -d "$dir.partial.XXXXXX")
        (
            cd "$partial"
            options=(-qq)
            ((EUID)) || options+=(-o APT::Sandbox::User=root)
            apt-get "${options[@]}" download "$package=$version" >&2
        ) || { rm -rf "$partial"; die "apt-get could not download $package $version"; }
        mv -T "$partial" "$dir" 2>/dev/null || rm -rf "$partial"   # lost the race: the other copy is as good
    fi
    found=("$dir"/*.deb)
    [[ -f ${found[0]} ]] || die "no package in $dir; remove that directory and try again"
    echo "${found[0]}"
}

# deb_architecture ARCHITECTURE: what Debian calls it
deb_architecture() {
    case $1 in
        x86_64) echo amd64 ;;
        aarch64) echo arm64 ;;
        *) die "unknown architecture '$1' (there are x86_64, aarch64)" ;;
    esac
}

# deb_unpacked PACKAGE: a directory in the cache with what the newest version of it has, nothing installed
deb_unpacked() {
    local package=$1 version dir deb partial
    version=$(deb_version "$package")
    dir=$(cache_root)/unpacked/${package}_$version
    if [[ ! -d $dir ]]; then
        deb=$(deb_fetch "$package" "$version")
        mkdir -p "${dir%/*}"
        partial=$(mktemp -d "$dir.partial.XXXXXX")
        chmod 755 "$partial"
        dpkg-deb -x "$deb" "$partial"
        mv -T "$partial" "$dir" 2>/dev/null || rm -rf "$partial"   # lost the race
    fi
    echo "$dir"
}

# unpack_bzimage BZIMAGE: the payload, by the boot protocol's fields at 0x1f1 (setup sectors), 0x248 and 0x24c (payload's offset
# and length); its last four bytes are the unpacked size
unpack_bzimage() {
    local sectors offset length unpack
    sectors=$(od -An -tu1 -j $((0x1f1)) -N1 "$1") offset=$(od -An -tu4 -j $((0x248)) -N4 "$1") length=$(od -An -tu4 -j $((0x24c)) -N4 "$1")
    payload() {
        dd if="$1" bs=1M iflag=skip_bytes,count_bytes skip=$(((sectors + 1) * 512 + offset)) count=$((length - 4)) status=none
    }
    case $(payload "$1" | od -An -tx1 -N4 | tr -d ' ') in
        fd377a58) unpack=xz ;;
        28b52ffd) unpack=zstd ;;
        02214c18) unpack=lz4 ;;
        *) die "the kernel $1 is packed by none of xz, zstd and lz4" ;;
    esac
    payload "$1" | "$unpack" -dc
}

# can_run ARCHITECTURE: whether its programs run here, which the scripts of its packages want
can_run() {
    [[ $1 == "$(uname -m)" || -e /proc/sys/fs/binfmt_misc/qemu-$1 ]] ||
        die "programs for $1 do not run here; tools/setup --$1 installs QEMU's user emulation and registers it"
}

# debian_sources SUITE: lines for sources.list; the archive that this machine uses, an image is no place to invent another
debian_sources() {
    local sources
    # shellcheck disable=SC2016
    sources=$(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' 'Origin: Debian' 'Architecture: amd64' | grep " $1" | sort -u)
    [[ $sources ]] || die "apt knows no $1 archive here; the images are made on Debian 12, after apt-get update"
    echo "$sources"
}

# only_one NAME: wait for other processes that build the same thing; held until this process ends
only_one() {
    local lock
    mkdir -p "$(cache_root)/locks"
    exec {lock}>"$(cache_root)/locks/$1"
    flock -n "$lock" || { say "waiting for another build of $1"; flock "$lock"; }
}

# place SOURCE DESTINATION: a copy for the caller, sparse and shared where the file system can
place() { cp --sparse=always --reflink=auto -- "$1" "$2" || die "cannot write $2"; }
