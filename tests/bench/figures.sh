# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Figures of benchmarks: from samples, and into a file that several of them share.

# figures_of SAMPLES: medians of "NAME VALUE" lines as JSON, with spread and target.
figures_of()
{
	sort -s -k1,1 "$1" | jq -Rn -f tests/bench/medians.jq
}

# figures_put NEW FILE [PREFIX]: into FILE, where what others measured stays.  With a
# PREFIX all that begins with it goes first, measured again or not.
figures_put()
{
	local all

	[[ -s $2 ]] || echo '[]' >"$2"
	all=$(jq -s --arg prefix "${3:-}" '(.[1] | map(.name)) as $new
		| (.[0] | map(select(.name | (IN($new[]) or ($prefix != "" and startswith($prefix)))
			| not))) + .[1] | sort_by(.name)' "$2" "$1") || return 1
	printf '%s\n' "$all" >"$2.new" && mv "$2.new" "$2"
}
