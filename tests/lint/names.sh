#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# What documents, man pages and headers name exists: files of the repository, functions and
# constants of the library, commands and their options; and the C that they show compiles.
# Environment: B (build folder).
set -u
cd "$(dirname "$0")/../.." || exit 1

B=${B:-build}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
documents=(README.md CONTRIBUTING.md SECURITY.md Documentation/*.md Documentation/*.rst
	Documentation/man/*.[1-8])
status=0

# complain WHERE: each line of the input is something that WHERE names in vain.
complain()
{
	local line

	while read -r line; do
		echo "$1 names $line, which is not there"
		touch "$work/bad"
	done
}

# Words in code quotes, or after .Pa: "folder/file", where the folder is one of ours.
files()
{
	local document path

	for document in "${documents[@]}"; do
		# shellcheck disable=SC2016 # the quotes are the document's
		grep -oE '(`|^\.Pa |\()(\.\./)*(Documentation|daemon|demo|examples|kmod|libkvtier|packaging|scripts|tests|tools|uapi)/[A-Za-z0-9_./*-]+' \
			"$document" | sed -E 's/^(`|\.Pa |\()(\.\.\/)*//; s/[.,]$//' | sort -u |
			while read -r path; do
				case $path in scripts/sign-file | tools/testing/*) continue ;; esac # the kernel's
				compgen -G "$path" >/dev/null || compgen -G "$path.[ch]" >/dev/null ||
					echo "$path"
			done | complain "$document"
	done
}

# kvt_*() and KVT_*, KVTIER_*: of a header, an environment variable or the module.
symbols()
{
	local document

	grep -rhoE '\b(kvt|kvtier|KVT|KVTIER|UFFDIO)_[A-Za-z0-9_]+' libkvtier kmod uapi tools daemon demo \
		scripts packaging tests Makefile Documentation/ABI | sort -u >"$work/known"
	for document in "${documents[@]}"; do
		grep -v '^\.Dt ' "$document" | grep -oE '\b(kvt_[a-z0-9_]+\(|(KVT|KVTIER)_[A-Z0-9_]*[A-Z0-9]\b)' | tr -d '(' |
			sort -u | comm -23 - "$work/known" | grep -v '_$' |
			while read -r name; do
				# "KVT_POLICY_*" stands for those that begin so.
				grep -q "^${name}_" "$work/known" || echo "$name"
			done | complain "$document"
	done
}

# help_of COMMAND [SUBCOMMAND...]: what it says of its options; fails where it is not built.
help_of()
{
	case $1 in
	kvtier | kvtierd | build/conformance)
		[[ -x $B/${1##*/} ]] || return
		"$B/${1##*/}" "${@:2}" --help
		;;
	tests/*) sed '/^set -/q' "$1" ;;
	esac
}

# Lines of commands in the documents: every option is one that the command knows.
options()
{
	local document command rest option help words

	for document in "${documents[@]}"; do
		grep -hE '^(\.Dl |[[:space:]]+)(sudo )?(kvtierd?|build/conformance|tests/vm/run.sh) ' "$document" |
			sed -E 's/^(\.Dl |[[:space:]]+)(sudo )?//; s/ #.*//; s/ -- .*//; s/ \|.*//' |
			while read -r command rest; do
				words=${rest%%-*} # up to the first option
				[[ $command == kvtier ]] || words=
				# shellcheck disable=SC2086 # a word each
				help=$(help_of "$command" $words) || continue
				grep -oE '(^| )--?[a-z][a-z-]*' <<<"$rest" | tr -d ' ' |
					while read -r option; do
						grep -qE -- "(^|[^a-z-])$option([^a-z-]|$)" <<<"$help" ||
							echo "$command $rest: $option"
					done
			done | complain "$document"
	done
}

# Fragments of C, in the declarations that they leave out.
fragments()
{
	{
		cat <<-'EOF'
			#include <err.h>
			#include <kvtier_seq.h>
			#include <kvtier_stream.h>
			void sequence(struct kvt_pool *, uint32_t, uint32_t, const float *, const float *);
			void sequence(struct kvt_pool *pool, uint32_t layer, uint32_t tokens, const float *k,
				      const float *v)
			{
				struct kvt_cache *cache;
				struct kvt_seq *seq;
		EOF
		sed -n '/^\.Bd -literal/,/^\.Ed/p' Documentation/man/kvtier_sequence.3 | grep -v '^\.'
		cat <<-'EOF'
			}
			void stream(struct kvt_attend *, struct kvt_pool *, struct kvt_seq_block **, uint32_t,
				    uint32_t, const struct kvt_attend_params *, struct kvt_attend_seq *);
			void stream(struct kvt_attend *attend, struct kvt_pool *pool, struct kvt_seq_block **tables,
				    uint32_t layers, uint32_t nr, const struct kvt_attend_params *p,
				    struct kvt_attend_seq *seqs)
			{
				struct kvt_attend_params params = *p;
				struct kvt_stream_table next = { .nr_blocks = 1 };
				struct kvt_stream *stream;
				uint32_t layer;
		EOF
		awk '/^::$/ { on = 1; next } on && /^\t/ { print; shown = 1; next }
			shown && NF { exit }' Documentation/streaming.rst | grep -v '^	*\.\.\.$'
		echo "}"
	} >"$work/fragments.c"
	[[ $(grep -c 'kvt_.*(' "$work/fragments.c") -ge 5 ]] || { echo "the fragments are not found" && return 1; }
	gcc -std=gnu11 -Wall -Wextra -Werror -Iuapi -Ilibkvtier/include -c -o "$work/fragments.o" \
		"$work/fragments.c"
}

files
symbols
options
fragments || status=1
[[ ! -e $work/bad && $status -eq 0 ]]
