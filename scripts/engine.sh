#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# engine.sh: fetch the pinned llama.cpp build and its headers, once; print the
# folder with lib/ and include/.  Progress goes to stderr.
#
# The libraries are the prebuilt ones of an npm package, unchanged; the headers
# come from the source that a second package bundles.  Both are checked against
# the sums below before anything of them is used.  The folder's name has a key
# over all that it is made from, so another pin never meets an old folder.
set -eu

version=3.22.1
libraries=@node-llama-cpp/linux-x64
libraries_sha512=e6e0820cda9608d7da026f1a47f533c5ba381c1a4a80d17dd640873dea4a86032057638099ab6879f6ce94c8a1b2a0a21f639ddf913f7941d00856df44126e3a
source=node-llama-cpp
source_sha512=6e5b488a9b9699cd76dc7eed30880318a4ac4ab866865418795502e3c5d38d55bb5c624988927209d95333343f2e25a83e4183a5c2f816f883a60c3ba9f4e20f
layout=1 # of the folder made below; count up when it changes

fail()
{
	echo "engine.sh: $*" >&2
	exit 1
}

need()
{
	command -v "$1" >/dev/null || fail "$1 is missing; install it with: scripts/setup.sh demo"
}

# fetch PACKAGE SHA512 FILE: the package's tarball as FILE.
fetch()
{
	local name sum

	echo "fetching $1 $version" >&2
	name=$(cd "$work" &&
		npm pack --ignore-scripts --loglevel=error "$1@$version" 2>npm.log) || {
		# The first line that is a sentence; the ones before it are bare codes.
		fail "cannot fetch $1 $version; is there a network? npm says:" \
			"$(sed -En 's/^npm (ERR!|error) +//p' "$work/npm.log" | grep -m1 ' .* .* ')"
	}
	name=${name##*$'\n'}
	sum=$(sha512sum <"$work/$name")
	[[ ${sum%% *} == "$2" ]] ||
		fail "$1 $version is not the pinned file (sha512 ${sum%% *}); not used"
	mv "$work/$name" "$work/$3"
}

unpack_libraries()
{
	tar -xzf "$work/libraries.tgz" -C "$work" package/bins/linux-x64 package/LICENSE
	mv "$work/package/bins/linux-x64" "$work/new/lib"
	mv "$work/package/LICENSE" "$work/new/LICENSE"
}

unpack_headers()
{
	local bundle=package/llama/gitRelease.bundle

	tar -xzf "$work/source.tgz" -C "$work" $bundle
	git clone --quiet --bare "$work/$bundle" "$work/source.git"
	git --git-dir="$work/source.git" archive HEAD include ggml/include | tar -x -C "$work"
	mkdir "$work/new/include"
	mv "$work"/include/*.h "$work"/ggml/include/*.h "$work/new/include/"
}

[[ $# -eq 0 ]] || fail "unexpected argument \"$1\"; it takes none"
key=$(echo "$layout $version $libraries_sha512 $source_sha512" | sha256sum)
cache=${KVTIER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvtier}
engine=$cache/engine-$version-${key:0:12}

if [[ ! -d $engine ]]; then
	[[ $(uname -sm) == "Linux x86_64" ]] ||
		fail "the pinned engine is built for Linux x86_64 only, this is $(uname -sm)"
	need npm
	need git
	mkdir -p "$cache"
	work=$(mktemp -d "$cache/.engine.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' INT TERM HUP
	mkdir "$work/new"
	fetch $libraries $libraries_sha512 libraries.tgz
	fetch $source $source_sha512 source.tgz
	unpack_libraries
	unpack_headers
	# Another call may have been faster; its folder is the same.
	mv -T "$work/new" "$engine" 2>/dev/null || [[ -d $engine ]] || fail "cannot create $engine"
fi
echo "$engine"
