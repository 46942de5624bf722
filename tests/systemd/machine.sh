#!/bin/bash
# Boots systemd as pid 1 of namespaces of its own, in about half a second, and ends it, with everything in it, when
# standard input reaches its end: the test that holds the other end may panic or be killed.
#
#   machine.sh DIR BINARIES
#
# DIR is the one place that the machine and the test both write to; it is removed at the end. The datagram socket
# DIR/booted hears READY=1 once the machine has booted, DIR/console has what it said before. BINARIES is where the
# test's programs are. Prints `pid N`, N being the machine's pid 1, to be entered with `nsenter --target N --all`.
#
# The machine has its own /etc, /usr, /var and /tmp (overlays, thrown away), /run, /dev, network (loopback only), process
# numbers and cgroup tree; the rest of the file system is the host's, read-only.
set -euo pipefail

# In the test's own namespaces but for the mounts: makes the cgroup, starts the machine, waits, clears up.
outer() {
  local dir=$1 binaries=$2 tree part cgroup machine reader pid populated
  tree=$dir/cgroup
  mkdir -p "$tree" "$dir/scratch"
  mount -t cgroup2 cgroup2 "$tree"
  for cgroup in "$tree"/zdsup-machine.*; do
    if [[ -d $cgroup && ! -d /proc/${cgroup##*.} ]]; then remove "$cgroup" || true; fi
  done
  # What the host has not taken for its own use is available in the machine.
  for part in $(<"$tree/cgroup.controllers"); do
    { echo "+$part" >"$tree/cgroup.subtree_control"; } 2>/dev/null || true
  done
  cgroup=$tree/zdsup-machine.$$
  mkdir "$cgroup"

  (
    echo "$BASHPID" >"$cgroup/cgroup.procs"
    exec setpriv --pdeathsig KILL unshare --pid --fork --kill-child --mount --mount-proc --uts --ipc --cgroup --net \
      bash "$0" --inner "$dir" "$binaries" </dev/null >"$dir/console" 2>&1
  ) &
  machine=$!

  pid=
  until read -r pid _ <"/proc/$machine/task/$machine/children" || [[ $pid ]]; do pause; done
  # It stays outside, so that the machine can enable controllers: no process may be in its root then.
  echo "$machine" >"$tree/cgroup.procs"
  echo "pid $pid"

  # Whichever comes first: the test lets go of us, or the machine is switched off.
  exec 3<&0
  cat <&3 >/dev/null &
  reader=$!
  wait -n "$machine" "$reader" || true

  kill -KILL "$pid" "$reader" 2>/dev/null || true
  wait "$machine" "$reader" 2>/dev/null || true
  [[ ! -e $cgroup/cgroup.kill ]] || echo 1 >"$cgroup/cgroup.kill"
  populated=1
  until [[ $populated == 0 ]]; do
    populated=$(sed -n 's/^populated //p' "$cgroup/cgroup.events")
    pause
  done
  remove "$cgroup"
  umount "$tree"
  rm -rf --one-file-system "$dir"
}

# A hundredth of a second, without a process for it: reads from a pipe that nobody writes to.
exec 4<> <(:)
pause() { read -r -t 0.01 -u 4 _ || true; }

remove() { find "$1" -depth -type d -exec rmdir {} +; }

# In the machine's namespaces, as their pid 1: gives it a file system of its own and becomes systemd.
inner() {
  local dir=$1 binaries=$2 scratch=$1/scratch units=/usr/lib/systemd/system node part unit
  ip link set lo up

  mount --bind "$dir" "$dir"
  exec 5<"$dir"
  mount -t tmpfs tmpfs "$scratch"
  mount -o remount,bind,ro /
  mkdir -m 0755 "$scratch/dev"
  for node in null zero full random urandom tty; do cp -a "/dev/$node" "$scratch/dev/"; done
  ln -s /proc/self/fd "$scratch/dev/fd"
  ln -s fd/0 "$scratch/dev/stdin"
  ln -s fd/1 "$scratch/dev/stdout"
  ln -s fd/2 "$scratch/dev/stderr"
  ln -s pts/ptmx "$scratch/dev/ptmx"
  mkdir "$scratch/dev/pts" "$scratch/dev/shm" "$scratch/dev/mqueue"
  mount --bind "$scratch/dev" /dev
  mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts /dev/pts
  mount -t tmpfs tmpfs /dev/shm

  for part in etc usr var tmp; do
    mkdir -p "$scratch/$part/upper" "$scratch/$part/work"
    chmod --reference="/$part" "$scratch/$part/upper"
    mount -t overlay -o "lowerdir=/$part,upperdir=$scratch/$part/upper,workdir=$scratch/$part/work" overlay "/$part"
  done
  # What supervisors of the host remember.
  rm -rf /var/lib/zdsup
  # Where it is below one of those, it is hidden now.
  mount --no-canonicalize --bind /proc/self/fd/5 "$dir"
  exec 5<&-

  mount -t tmpfs -o mode=0755 tmpfs /run
  umount --recursive --lazy /sys
  mount -t sysfs -o ro sysfs /sys
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  mount --bind /proc/sys /proc/sys
  mount -o remount,bind,ro /proc/sys

  # Nothing starts but the journal: no unit of the host that would touch its hardware, mounts or settings.
  echo machine >/etc/hostname
  rm -rf /etc/systemd/system "$units"/*.wants /usr/lib/systemd/system-generators /etc/fstab
  mkdir -p /etc/systemd/system /etc/systemd/journald.conf.d "$units/sysinit.target.wants"
  ln -s ../systemd-journald.socket ../systemd-journald.service "$units/sysinit.target.wants/"
  for unit in systemd-journald-dev-log.socket systemd-journald-audit.socket dev-hugepages.mount tmp.mount; do
    ln -s /dev/null "/etc/systemd/system/$unit"
  done
  cat >/etc/systemd/journald.conf.d/machine.conf <<-END
	[Journal]
	Storage=volatile
	ReadKMsg=no
	Audit=no
	RateLimitIntervalSec=0
	ForwardToSyslog=no
	ForwardToConsole=no
	ForwardToWall=no
	END
  [[ -d $binaries && -S $dir/booted ]] || { echo "$dir or $binaries is hidden by a mount of the machine" >&2; exit 1; }
  exec env -i "PATH=$PATH" container=zdsup-machine "NOTIFY_SOCKET=$dir/booted" \
    /lib/systemd/systemd --system --unit=basic.target --show-status=0
}

case $1 in
--inner) inner "$2" "$3" ;;
--outer) outer "$2" "$3" ;;
*) exec unshare --mount bash "$0" --outer "$1" "$2" ;;
esac
