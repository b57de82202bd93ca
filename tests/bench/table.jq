# SPDX-License-Identifier: MIT
# bench.json for people.

def pad($n): tostring | . + " " * ([$n - length, 0] | max);
def lpad($n): tostring | " " * ([$n - length, 0] | max) + .;
def round2: . * 100 | round / 100;
def row: "\(.[0] | pad(34))\(.[1] | lpad(10)) \(.[2] | pad(6))\(.[3] | lpad(8))\(.[4] | lpad(4))\(.[5] | lpad(11))\(.[6] | lpad(11))";

(["", "median", "", "target", "n", "min", "max"] | row),
(.[] | [.name, (.value | round2), .unit, (.target // "-"), .n, (.min | round2), (.max | round2)] | row)
