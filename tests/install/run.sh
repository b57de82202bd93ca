#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# What `make install` puts in place, as packagers and users of the library meet it: files,
# programs built with pkg-config, C and C++, what the library shows; uninstalled without a
# trace.  Nothing is built but what is missing.
# Environment: B (build folder).
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/ktap.sh
. tests/ktap.sh

B=${B:-build}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
root=$work/root
export PKG_CONFIG_SYSROOT_DIR=$root
export PKG_CONFIG_PATH=$root/usr/local/lib/pkgconfig

# Every header in one program that calls something of each part.
cat >"$work/user.c" <<-'EOF'
	#include <kvtier.h>
	#include <kvtier_attend.h>
	#include <kvtier_daemon.h>
	#include <kvtier_seq.h>
	#include <kvtier_stream.h>

	int main(void)
	{
		struct kvt_config none = KVT_CONFIG_INIT;
		struct kvt_attend *attend;
		struct kvt_pool *pool;

		if (kvt_pool_create(&none, &pool) >= 0 || kvt_attend_create(NULL, &attend))
			return 1;
		kvt_attend_destroy(attend);
		kvt_stream_destroy(NULL);
		kvt_client_close(NULL);
		kvt_seq_destroy(NULL);
		return kvt_version()[0] != '0' + KVT_VERSION_MAJOR;
	}
EOF

staged()
{
	make -s B="$B" install DESTDIR="$root" >"$work/log" 2>&1 || { cat "$work/log" && return 1; }
	(cd "$root/usr/local" && find . -type f -o -type l) >"$work/files"
	expect "files elsewhere" "$(find "$root" -type f ! -path '*/usr/local/*' | wc -l)" 0 &&
		expect "man pages" "$(grep -c '/man/man' "$work/files")" \
			"$(find Documentation/man -name '*.[1-8]' | wc -l)" &&
		expect "headers" "$(grep -c '/include/.*\.h$' "$work/files")" \
			"$(find libkvtier/include uapi -name '*.h' | wc -l)" &&
		expect "programs" "$(cd "$root/usr/local/bin" && echo *)" "kvtier kvtierd" &&
		expect "version" "$("$root/usr/local/bin/kvtier" --version)" \
			"kvtier $(pkg-config --modversion kvtier)"
}

# As a package has it: every place that is named in a file is the PREFIX's.
other_prefix()
{
	local text

	text=$(make -n B="$B" install DESTDIR=/none PREFIX=/usr)
	grep -q "s,/usr/local/bin,/usr/bin," <<<"$text" || { echo "the unit's place" && return 1; }
	grep -E '/none/usr/local|/none/[^u]' <<<"$text" | none_of "not in /usr"
}

unstaged()
{
	make -s B="$B" uninstall DESTDIR="$root" || return 1
	find "$root" ! -type d | none_of "left by uninstall"
}

none_of()
{
	local found

	found=$(cat)
	[[ ! $found ]] || { echo "$1: $found" && return 1; }
}

# build COMPILER OPTION...: the user's program, as pkg-config says, and run it.  The headers are
# where compilers look by themselves, as in /usr/include: the initialisers, which C++ before 20
# takes as an extension, are none of its program's warnings.
build()
{
	command -v "$1" >/dev/null || { skip "$1 is not installed" || return; }
	# shellcheck disable=SC2046 # flags are words
	"$@" -Wall -Wextra -Werror -pedantic -o "$work/user" "$work/user.c" \
		$(pkg-config --cflags --libs kvtier | sed 's/-I/-isystem/g') || return 1
	LD_LIBRARY_PATH=$root/usr/local/lib "$work/user"
}

# The archive, and shared what it needs.
with_archive()
{
	# shellcheck disable=SC2046 # flags are words
	gcc -o "$work/user" "$work/user.c" $(pkg-config --cflags kvtier) \
		$(pkg-config --static --libs kvtier | sed 's/-lkvtier/-l:libkvtier.a/') || return 1
	! ldd "$work/user" | grep libkvtier || { echo "it is linked to the shared object" && return 1; }
	"$work/user"
}

# A program that has names of its own may have any but the library's.
names()
{
	nm --defined-only "$root/usr/local/lib/libkvtier.a" 2>/dev/null |
		awk 'NF == 3 && $2 ~ /[A-Z]/ && $3 !~ /^kvt_/ { print $3 }' |
		none_of "names of the archive without the prefix" || return 1
	nm -D --defined-only "$root/usr/local/lib/libkvtier.so.0" |
		awk '$2 != "A" && $3 !~ /^kvt_[a-z0-9_]+@@KVTIER_/ { print $3 }' |
		none_of "exports without prefix or version"
}

soname()
{
	build gcc -std=c11 || return
	readelf -d "$work/user" | grep -q 'NEEDED.*\[libkvtier\.so\.0\]' &&
		readelf -V "$work/user" | grep -q 'Name: KVTIER_ATTEND_0'
}

# The suite before has built it all.
up_to_date()
{
	[[ -x $B/kvtierd ]] || { skip "nothing is built" || return; }
	make B="$B" all | grep -E '^  [A-Z]+ ' | none_of "built again though nothing changed"
}

# refused WORDS MAKE-ARGUMENT...: one line before anything is built.
refused()
{
	local words=$1 said

	shift
	said=$(make -s B="$work/refused" "$@" 2>&1) && { echo "not refused" && return 1; }
	[[ $said == *"$words"* && ! -d $work/refused ]] || { echo "$said" && return 1; }
}

bad_input()
{
	refused "needs 64" CFLAGS=-m32 lib &&
		refused "missing:nosuchcc;" CC=nosuchcc lib &&
		refused "no kernel headers in $work" KDIR="$work" modules
}

ktap_case up_to_date "nothing is built twice" up_to_date
ktap_case bad_input "what cannot be built is refused in a line" bad_input
ktap_case staged "make install DESTDIR=" staged
ktap_case other_prefix "make install PREFIX=" other_prefix
ktap_case c99 "headers and library from C99" build gcc -std=c99
ktap_case soname "linked by soname and version" soname
ktap_case clang "headers and library with clang" build clang -std=c17
ktap_case cplusplus "headers and library from C++11" build g++ -std=c++11 -x c++
ktap_case archive "the archive" with_archive
ktap_case names "names of the library alone" names
ktap_case unstaged "make uninstall leaves nothing" unstaged
ktap_end
