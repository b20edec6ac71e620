#!/usr/bin/env bash
# A real HTCondor pool on this machine, for tests: Debian's minicondor in a root of its own.
#
#   pool.sh build ROOT             make the root (about a minute, 500 MB)
#   pool.sh start ROOT PATH...     start the pool; each PATH is seen inside at the same place
#   pool.sh run ROOT COMMAND...    run a command inside, as an ordinary user, in this folder
#   pool.sh stop ROOT              stop the pool and everything that runs inside
#   pool.sh clean ROOT             stop, and remove the root
#
# The pool has its own namespaces for mounts, processes and the network: it opens no port of the
# machine, and when its first process ends, the kernel ends the others and undoes the mounts.
set -euo pipefail

RELEASE=trixie # the oldest Debian that has minicondor
SLOTS=4
PHYSICIST=physicist

fail() { echo "pool.sh: $*" >&2; exit 1; }

needs() {
    [ "$(id -u)" = 0 ] || fail "building an HTCondor pool takes root"
    command -v apt-get >/dev/null || fail "building an HTCondor pool takes apt-get"
    unshare --mount --pid --net --uts --fork true 2>/dev/null || fail "namespaces are not allowed here"
}

# the process that started the namespaces; empty if the pool doesn't run
keeper() {
    local pid
    pid=$(cat "$root.pid" 2>/dev/null) || return 0
    # a process id may have been given away since it was recorded; a zombie has no program
    case $(readlink "/proc/$pid/exe") in */unshare) echo "$pid" ;; esac
}

first_process() { local pid; pid=$(keeper); [ -n "$pid" ] && cat "/proc/$pid/task/$pid/children"; }

inside() { # as root
    local pid
    pid=$(first_process) || fail "no pool runs in $root"
    nsenter --target "${pid// /}" --mount --pid --net --uts --root --wdns=/ -- "$@"
}

build() {
    needs
    command -v debootstrap >/dev/null || apt-get install --yes --quiet=2 debootstrap >/dev/null
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
        grep -v security | head -n 1)
    [ -n "$mirror" ] || fail "apt knows no mirror"
    rm -rf "$root.part"
    debootstrap --variant=minbase $RELEASE "$root.part" "$mirror" >"$root.log" 2>&1 ||
        fail "debootstrap failed: $(tail -n 3 "$root.log")"
    # mounts of this namespace vanish with it
    unshare --mount --fork bash -euo pipefail -c '
        mount -t proc proc "$1/proc"
        mount --rbind /dev "$1/dev"
        printf "#!/bin/sh\nexit 101\n" >"$1/usr/sbin/policy-rc.d"
        chmod +x "$1/usr/sbin/policy-rc.d"
        DEBIAN_FRONTEND=noninteractive chroot "$1" apt-get install --yes --quiet=2 \
            --no-install-recommends minicondor python3 procps iproute2 tzdata
    ' build "$root.part" >>"$root.log" 2>&1 || fail "apt-get failed: $(tail -n 3 "$root.log")"
    # no name is asked of the network, which isn't there
    echo "127.0.0.1 localhost pool" >"$root.part/etc/hosts"
    echo "hosts: files" >"$root.part/etc/nsswitch.conf"
    printf "passwd: files\ngroup: files\n" >>"$root.part/etc/nsswitch.conf"
    : >"$root.part/etc/resolv.conf"
    chroot "$root.part" useradd --create-home $PHYSICIST
    mv "$root.part" "$root"
}

# Mount namespaces within this one are refused; without the first line every job is held. What a
# pool looks at every few minutes, this one does every second: the tests wait for it.
configure() {
    cat >"$root/etc/condor/config.d/99-local" <<CONFIG
MOUNT_UNDER_SCRATCH =
NUM_CPUS = $SLOTS
SCHEDD_INTERVAL = 1
SCHEDD_MIN_INTERVAL = 1
PERIODIC_EXPR_INTERVAL = 1
NEGOTIATOR_INTERVAL = 1
NEGOTIATOR_MIN_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
UPDATE_INTERVAL = 1
POLLING_INTERVAL = 1
KILLING_TIMEOUT = 5
MaxVacateTime = 5
CONFIG
}

start() {
    needs
    [ -d "$root" ] || fail "no root at $root: build it first"
    [ -z "$(keeper)" ] || fail "a pool runs in $root already"
    configure
    setsid unshare --mount --pid --net --uts --fork --kill-child bash -euo pipefail -c '
        root=$1
        shift
        hostname pool
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount --rbind /sys "$root/sys"
        mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
        for path; do
            # the folders above, such as /root, may be closed to others
            mkdir -p "$root$path"
            above=$path
            while above=$(dirname "$above"); [ "$above" != / ]; do chmod a+rx "$root$above"; done
            mount --rbind "$path" "$root$path"
        done
        exec chroot "$root" bash -c "
            ip link set lo up
            mkdir -p /run/condor && chown condor: /run/condor
            # this shell stays, and buries the processes that lose their parents
            condor_master -f & wait"
    ' start "$root" "$@" </dev/null >"$root.log" 2>&1 &
    echo $! >"$root.pid"
    for _ in $(seq 200); do
        sleep 0.3
        [ -n "$(keeper)" ] || fail "the pool ended: $(tail -n 3 "$root.log")"
        if inside timeout 5 condor_status -af Name 2>/dev/null | grep -q slot; then return; fi
    done
    stop
    fail "no slot after a minute: $(tail -n 3 "$root.log")"
}

run() {
    inside runuser --user $PHYSICIST -- env HOME=/home/$PHYSICIST sh -c 'cd "$0" && exec "$@"' \
        "$PWD" "$@"
}

stop() {
    local pid
    pid=$(keeper)
    if [ -n "$pid" ]; then
        kill -KILL "$pid"
        while [ -n "$(keeper)" ]; do sleep 0.1; done
    fi
    rm -f "$root.pid"
}

clean() {
    stop
    # nothing of the machine may be mounted below what is removed
    ! grep -q " $root[/.]" /proc/self/mounts || fail "something is mounted below $root"
    rm -rf --one-file-system "$root" "$root.part" "$root.log"
}

[ $# -ge 2 ] || fail "usage: pool.sh build|start|run|stop|clean ROOT ..."
verb=$1 root=$(readlink -m "$2")
shift 2
case $verb in
build | start | run | stop | clean) "$verb" "$@" ;;
*) fail "unknown verb $verb" ;;
esac
