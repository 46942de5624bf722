#!/bin/sh
# Installs zdsup, its units, man page, completions and documents, as a distribution's package would.
#
#   packaging/install.sh [--binary FILE] [--destdir DIR] [--prefix DIR] [--reexec]
#
# FILE is the built program (target/release/zdsup), DESTDIR goes before every path (for building a package), PREFIX is
# /usr. Nothing is enabled or started. With --reexec, supervisors that run go on with this zdsup, as after the upgrade of
# a package.
set -eu

source=$(cd "$(dirname "$0")/.." && pwd)
binary=$source/target/release/zdsup
destdir=${DESTDIR-}
prefix=${PREFIX-/usr}
reexec=
while [ $# -gt 0 ]; do
  case $1 in
  --binary) binary=$2 ;;
  --destdir) destdir=$2 ;;
  --prefix) prefix=$2 ;;
  --reexec)
    reexec=yes
    shift
    continue
    ;;
  *)
    echo "usage: $0 [--binary FILE] [--destdir DIR] [--prefix DIR] [--reexec]" >&2
    exit 2
    ;;
  esac
  shift 2
done
if [ ! -x "$binary" ]; then
  echo "$0: no program at $binary (cargo build --release makes it)" >&2
  exit 1
fi
root=$destdir$prefix
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

put() { install -D -m "$1" "$2" "$3"; }

put 0755 "$binary" "$root/bin/zdsup"

# The units name the program by its full path.
sed "s|/usr/bin/zdsup|$prefix/bin/zdsup|g" "$source/systemd/zdsup@.service" >"$work/unit"
put 0644 "$work/unit" "$root/lib/systemd/system/zdsup@.service"
install -d -m 0755 "$destdir/etc/zdsup"

# Help, man page and completions come from one source, the program.
"$binary" man >"$work/man"
put 0644 "$work/man" "$root/share/man/man1/zdsup.1"
"$binary" completions bash >"$work/bash"
put 0644 "$work/bash" "$root/share/bash-completion/completions/zdsup"
"$binary" completions zsh >"$work/zsh"
put 0644 "$work/zsh" "$root/share/zsh/vendor-completions/_zdsup"
"$binary" completions fish >"$work/fish"
put 0644 "$work/fish" "$root/share/fish/vendor_completions.d/zdsup.fish"

for document in README.md CHANGELOG.md docs/config.md docs/integrate.md docs/operate.md docs/recipes.md \
  docs/steering.md docs/systemd.md; do
  put 0644 "$source/$document" "$root/share/doc/zdsup/${document##*/}"
done
for example in zdsup@.socket sandbox.conf; do
  put 0644 "$source/systemd/$example" "$root/share/doc/zdsup/examples/$example"
done
put 0644 "$source/packaging/example.toml" "$root/share/doc/zdsup/examples/zdsup.toml"
for example in prometheus-alerts.yml grafana-dashboard.json; do
  put 0644 "$source/packaging/$example" "$root/share/doc/zdsup/examples/$example"
done
for license in LICENSE-MIT LICENSE-APACHE; do
  put 0644 "$source/$license" "$root/share/doc/zdsup/$license"
done

if [ -n "$reexec" ]; then
  ZDSUP=$root/bin/zdsup "$source/packaging/postinst"
fi
