# SPDX-License-Identifier: MIT
# "NAME VALUE" lines to [{name, value, unit, target, n, min, max}], value the median.

def median: sort | if length % 2 == 1 then .[(length - 1) / 2]
	else (.[length / 2 - 1] + .[length / 2]) / 2 end;

def unit:
	if test("MBps") then "MB/s"
	elif test("_ms") then "ms"
	elif test("GBps$") then "GB/s"
	elif test("max_error$") then "part"
	elif test("vs_|[.]ratio$") then "times"
	elif test("tokens_s") then "1/s"
	elif test("equal$") then "bool"
	else "%" end;

# What the project holds itself to; null: for information.
def target: {
	"decode.equal": 1,
	"decode.hidden.4x": 90,
	"decode.pct_bound.4x": 90,
	"decode.vs_swap.4x": 10,
	"restart.vs_recompute": 10,
	"restart.equal": 1,
	"share.engine.pct_bound": 90,
	"share.session.vs_read": 1.2,
	"decode.whole.hidden.4x": 90,
	"decode.whole.pct_bound.4x": 90,
	"engine.hash_equal": 1,
	"engine.gen.pct_bound.4x": 85,
	"engine.gen.vs_swap.4x": 10,
	"nvme.read.pct_fio": 90,
	"attend.f16.pct_read": 80,
	"attend.f16.vs_ggml": 12,
	"attend.int8.pct_read": 70,
	"attend.q8_0.vs_ggml": 15,
	"attend.q4_0.vs_ggml": 15
}[.];

[inputs | select(length > 0) | split(" ") | {name: .[0], value: (.[1] | tonumber)}]
| group_by(.name)
| map([.[].value] as $v | {
	name: .[0].name, value: ($v | median), unit: (.[0].name | unit),
	target: (.[0].name | target), n: ($v | length), min: ($v | min), max: ($v | max)
})
