# SPDX-License-Identifier: MIT
# bench.json for people.

def pad($n): tostring | . + " " * ([$n - length, 0] | max);
def lpad($n): tostring | " " * ([$n - length, 0] | max) + .;
# Two digits after the point, or of it.
def digits: if . == 0 then 0 else fabs | log10 | floor end;
def round2: if . == null then "NaN" elif . == 0 or fabs >= 0.1 then . * 100 | round / 100
	else digits as $d | "\(. * pow(10; 1 - $d) | round / 10)e\($d)" end;
def row: "\(.[0] | pad(34))\(.[1] | lpad(10)) \(.[2] | pad(6))\(.[3] | lpad(8))\(.[4] | lpad(4))\(.[5] | lpad(11))\(.[6] | lpad(11))";

(["", "median", "", "target", "n", "min", "max"] | row),
(.[] | [.name, (.value | round2), .unit, (.target // "-"), .n, (.min | round2), (.max | round2)] | row)
