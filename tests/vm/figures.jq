# SPDX-License-Identifier: MIT
#
# Lines "# figure NAME VALUE UNIT [TARGET]" of one run, merged into the figures of
# earlier runs: the median of each name, and how many there were.
def median: sort | if length % 2 == 1 then .[length / 2 | floor]
	else (.[length / 2 - 1] + .[length / 2]) / 2 end;
[inputs | split(" ") | map(select(. != "")) | { name: (.[2] + $suffix), value: (.[3] | tonumber),
	unit: (.[4] // ""), target: (if .[5] then .[5] | tonumber else null end) }]
| group_by(.name)
| map({ name: .[0].name, value: (map(.value) | median), unit: .[0].unit, target: .[0].target,
	n: length, min: (map(.value) | min), max: (map(.value) | max) })
| . as $new
| [$old[0][] | select(.name as $n | $new | map(.name) | index($n) | not)] + $new
| sort_by(.name)
