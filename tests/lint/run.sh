#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Static analysis, and the rules that hold for every file of the repository.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/ktap.sh
. tests/ktap.sh

# Tracked and new files, not ignored ones; in a tarball, whatever is there.
mapfile -t files < <(git ls-files --cached --others --exclude-standard 2>/dev/null |
	while read -r file; do [[ -f $file ]] && echo "$file"; done || true)
[[ ${#files[@]} -gt 0 ]] ||
	mapfile -t files < <(find . -path ./build -prune -o -type f -print | sed 's,^\./,,')

# matching REGEX: the files whose names match.
matching()
{
	printf '%s\n' "${files[@]}" | grep -E "$1"
}

# The module and what needs the kernel's own headers have kbuild's checks.
mapfile -t c_files < <(matching '\.c$' | grep -vE '^(kmod|tests/selftests|tests/vm/modules)/')
mapfile -t source_files < <(
	matching '\.(c|h|sh|mk|map|jq)$|(^|/)(Makefile|Kbuild)$'
	echo .ci/run
)
mapfile -t shell_files < <(matching '\.sh$' && echo .ci/run)

# A line each way: what a list must be free of.
none()
{
	local found

	found=$(cat)
	[[ ! $found ]] || {
		echo "$1"
		echo "$found"
		return 1
	}
}

engine_headers()
{
	scripts/engine.sh 2>/dev/null | sed 's,$,/include,'
}

# The flags that the Makefile gives a file of libkvtier/x86.
isa_flags()
{
	local name=${1##*/}

	name=${name%%[_.]*}
	make -pn help 2>/dev/null | sed -n "s/^ISA_$name := //p"
}

flags_for()
{
	echo -std=gnu11 -Iuapi -Ilibkvtier/include -Ilibkvtier -Itools -Wall -Wextra \
		"-DKVTIER_LIBDIR=\"/usr/local/lib/kvtier\""
	case $1 in
	demo/* | tests/bench/attend_ggml.c) [[ ! $headers ]] || echo -isystem "$headers" ;;
	libkvtier/x86/*) isa_flags "$1" ;;
	esac
}

# Both for the calls of xargs below.
tidy_file()
{
	# shellcheck disable=SC2046 # flags are words
	clang-tidy --quiet "$1" -- $(flags_for "$1") 2>/dev/null
}

clang_tidy()
{
	local headers file

	command -v clang-tidy >/dev/null || { skip "clang-tidy is not installed" || return; }
	headers=$(engine_headers)
	export headers
	export -f isa_flags flags_for tidy_file
	# shellcheck disable=SC2016 # expanded by the inner shell
	for file in "${c_files[@]}"; do
		[[ $headers || ($file != demo/* && $file != tests/bench/attend_ggml.c) ]] || continue
		printf '%s\0' "$file"
	done | xargs -0 -n 1 -P "$(nproc)" bash -c 'tidy_file "$1"' tidy
}

run_cppcheck()
{
	command -v cppcheck >/dev/null || { skip "cppcheck is not installed" || return; }
	# Not told of system headers: what it cannot know, it must not judge.
	cppcheck --quiet --std=c11 --language=c --platform=unix64 --error-exitcode=1 \
		--enable=warning,performance,portability --inline-suppr \
		--suppress=missingIncludeSystem --suppress=syntaxError:tests/unit/* \
		-Iuapi -Ilibkvtier/include -Ilibkvtier -Itools "${c_files[@]}" 2>&1
}

run_shellcheck()
{
	command -v shellcheck >/dev/null || { skip "shellcheck is not installed" || return; }
	shellcheck -x "${shell_files[@]}"
}

spdx()
{
	local file line

	for file in "${files[@]}"; do
		case $file in
		*.md | *.rst | *.json | *.map.in | tests/selftests/config | tests/selftests/settings | LICENSES/* | *.pc.in | *.csv) continue ;;
		esac
		line=$(head -n 1 "$file")
		[[ $line != '#!'* ]] || line=$(sed -n 2p "$file")
		case $file in
		kmod/* | Kbuild | tests/vm/modules/*) want=GPL-2.0-only ;;
		uapi/*) want='GPL-2.0-only WITH Linux-syscall-note' ;;
		*) want=MIT ;;
		esac
		[[ $line =~ "SPDX-License-Identifier: $want"( \*/)?$ ||
			$line == ".\\\" SPDX-License-Identifier: $want" ]] || echo "$file: $line"
	done | none "line 1 (2 after #!) does not name the licence of its folder:"
}

# The project speaks of itself alone.
machine_paths()
{
	local root=work user=home

	grep -nE "(^|[^A-Za-z0-9_.-])/($root|$user)/[a-z]" -- "${files[@]}" |
		none "paths of somebody's machine:"
}

registry_hosts()
{
	local hosts='registry\.(npm|yarn)|npmjs\.|pypi\.|deb\.debian|crates\.io|dl-cdn'

	grep -nE "$hosts" -- "${files[@]}" | grep -v '^tests/lint/run.sh:' |
		none "registry host names:"
}

white_space()
{
	# In C and shell a tab never follows a space in the indentation, and nothing ends in blanks.
	grep -nE '[[:blank:]]+$|^ +	' -- "${source_files[@]}" |
		none "white space:"
}

executables()
{
	local file

	for file in "${files[@]}"; do
		[[ $(head -c 2 "$file") == '#!' ]] || continue
		[[ -x $file ]] || echo "$file: has #! and is not executable"
	done | none "modes:"
}

documents()
{
	local file lines

	for file in README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md LICENSES/MIT.txt \
		LICENSES/GPL-2.0-only.txt LICENSES/Linux-syscall-note.txt \
		Documentation/dependencies.md Documentation/testing.rst; do
		[[ -s $file ]] || { echo "$file is missing" && return 1; }
	done
	lines=$(wc -l <README.md)
	[[ $lines -le 150 ]] || { echo "README.md: expected at most 150 lines, got $lines" && return 1; }
}

# Every relative link of a document leads to a file.
links()
{
	local file target

	for file in $(matching '\.md$'); do
		grep -oE '\]\([^)#]+' "$file" | sed 's/^](//' | while read -r target; do
			[[ $target == *://* || -e $(dirname "$file")/$target ]] || echo "$file: $target"
		done
	done | none "links that lead nowhere:"
}

# `make help` names every phony target and nothing else, and the README only real ones.
make_help()
{
	local helped

	helped=$(make help | awk '{ print $1 }')
	expect "targets of make help" "$(sort <<<"$helped")" \
		"$(sed -n 's/^\.PHONY: //p' Makefile | tr ' ' '\n' | sort)" || return 1
	grep -ohE '`+make [a-z-]+|^ *make [a-z-]+' README.md CONTRIBUTING.md Documentation/*.md \
		Documentation/*.rst | awk '{ print $2 }' | sort -u | while read -r target; do
		grep -qx -- "$target" <<<"$helped" || echo "make $target"
	done | none "documents name targets that make help does not:"
}

# Packages that scripts/setup.sh installs, one a line.
setup_packages()
{
	sed -n '/^[a-z]*=($/,/^)$/p' scripts/setup.sh | sed -E '/^[a-z]*=\($|^\)$/d; s/#.*//' |
		tr -s ' \t' '\n' | sed -E '/^$/d; s/^[^:]*://' | sort -u
}

# Packages named in the first column of dependencies.md's tables.
documented_packages()
{
	# shellcheck disable=SC2016 # the quotes are the document's
	sed -nE 's/^\| `([a-z0-9.+-]+)` .*/\1/p' Documentation/dependencies.md | sort -u
}

dependencies()
{
	local difference name

	difference=$(diff <(setup_packages) <(documented_packages)) || {
		echo "scripts/setup.sh (<) and Documentation/dependencies.md (>) differ:"
		echo "$difference"
		return 1
	}
	for name in $(make -pn help 2>/dev/null |
		sed -nE 's/^(LIB|TOOL|TEST)_PACKAGES := //p'); do
		[[ $name == lib* ]] || name=lib$name
		grep -qi -- "$name" Documentation/dependencies.md || {
			echo "the Makefile links $name; Documentation/dependencies.md does not name it"
			return 1
		}
	done
}

# Every function of the public headers is exported, and nothing else is.
exports()
{
	local header map

	header=$(grep -ohE '\bkvt_[a-z_]+\(' libkvtier/include/*.h | tr -d '(' | sort -u)
	map=$(grep -oE '\bkvt_[a-z_]+;' libkvtier/libkvtier.map | tr -d ';' | sort -u)
	expect "libkvtier.map" "$map" "$header" || return 1
	[[ -f $B/libkvtier.so.0 ]] || { skip "libkvtier is not built" || return; }
	expect "exported by libkvtier.so.0" "$(nm -D --defined-only "$B/libkvtier.so.0" |
		awk '$2 == "T" { sub(/@.*/, "", $3); print $3 }' | sort -u)" "$header"
}

# Functions that a page introduces: in its list, or in its heading.
introduced()
{
	sed -nE '/^\.It Fn/p; /^\.Nm kvt_/p' "$@" | grep -oE '\bkvt_[a-z_]+' | sort
}

# Every function of the public headers is introduced in one page of section 3, once.
manuals()
{
	local pages=(Documentation/man/*.3)

	expect "functions in ${pages[*]}" "$(introduced "${pages[@]}")" \
		"$(grep -ohE '^[a-z].*\bkvt_[a-z_]+\(' libkvtier/include/*.h |
			grep -oE '\bkvt_[a-z_]+\(' | tr -d '(' | sort)" || return 1
	command -v mandoc >/dev/null || { skip "mandoc is not installed" || return; }
	mandoc -T lint -W warning "${pages[@]}"
}

B=${B:-build}
ktap_case clang_tidy "clang-tidy finds nothing" clang_tidy
ktap_case cppcheck "cppcheck finds nothing" run_cppcheck
ktap_case shellcheck "shellcheck finds nothing" run_shellcheck
ktap_case spdx "every source names its licence on its first line" spdx
ktap_case machine_paths "no path of somebody's machine" machine_paths
ktap_case registry_hosts "no registry host names" registry_hosts
ktap_case white_space "indentation and line ends" white_space
ktap_case executables "scripts are executable" executables
ktap_case documents "the documents are there, README in at most 150 lines" documents
ktap_case links "links lead somewhere" links
ktap_case make_help "make help and the documents name the Makefile's targets" make_help
ktap_case names "what the documents name is there, and their C compiles" tests/lint/names.sh
ktap_case dependencies "dependencies.md, setup.sh and the Makefile agree" dependencies
ktap_case exports "header, version script and shared object agree" exports
ktap_case manuals "man pages introduce every function once" manuals
ktap_case sysfs "Documentation/ABI and the module's sources agree" tests/lint/sysfs.sh
ktap_case module "the module's messages, ioctls and trace events are explained" tests/lint/module.sh
[[ ! -x tests/tools/docs.sh ]] ||
	ktap_case docs "help, man pages and completion agree" tests/tools/docs.sh
ktap_end
